import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from openset.data import ImageSet, batches, mean_std


class Stream(IterableDataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __iter__(self):
        yield from zip(self.images, self.labels, strict=True)


@pytest.mark.parametrize("kind", ["set", "dataset", "loader", "stream", "list", "twice"])
def test_every_source_gives_the_same_batches_twice(kind):
    images = torch.randint(0, 256, (7, 3, 4, 4)) / 255
    labels = torch.arange(7)
    source = {
        "set": lambda: ImageSet(images, labels),
        "dataset": lambda: TensorDataset(images, labels),
        "loader": lambda: DataLoader(TensorDataset(images, labels), 3),
        "stream": lambda: Stream(images, labels),
        "list": lambda: [(images[i : i + 3], labels[i : i + 3]) for i in (0, 3, 6)],
        "twice": lambda: batches(TensorDataset(images, labels), 3),
    }[kind]()
    read = batches(source, 3)
    for _ in range(2):
        got = list(read)
        assert [len(x) for x, _ in got] == [3, 3, 1]
        assert torch.allclose(torch.cat([x for x, _ in got]), images)
        assert torch.equal(torch.cat([y for _, y in got]), labels)
    if kind != "stream":
        assert len(read) == 3


def test_uint8_batches_become_floats():
    pixels = torch.randint(0, 256, (2, 1, 3, 3), dtype=torch.uint8)
    ((image, _),) = batches([(pixels, torch.zeros(2))])
    assert torch.equal(image, pixels / 255)


def good() -> torch.Tensor:
    return torch.rand(2, 1, 3, 3)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (3, "expected a pair"),
        ((good(), torch.zeros(3)), "2 images but 3 labels"),
        ((good()[0], torch.zeros(2)), r"shape \(1, 3, 3\)"),
        ((good().fill_(torch.nan), torch.zeros(2)), r"batch 1: NaN .* image 0 \(2 in all\)"),
        ((good().fill_(torch.inf), torch.zeros(2)), "batch 1: NaN or infinite"),
    ],
)
def test_bad_batches_are_named(batch, message):
    with pytest.raises(ValueError, match=message):
        list(batches([(good(), torch.zeros(2)), batch]))


@pytest.mark.parametrize("source", [iter([]), 3, (x for x in [])])
def test_what_can_be_read_only_once_is_refused(source):
    with pytest.raises(ValueError, match="more than once"):
        batches(source)


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size is 0"):
        ImageSet(good()).batches(0)


def test_mean_and_std_are_those_of_all_pixels():
    images = torch.randint(0, 256, (9, 3, 4, 5), dtype=torch.uint8)
    mean, std = mean_std(ImageSet(images))
    flat = (images.double() / 255).transpose(0, 1).flatten(1)
    assert mean == pytest.approx(flat.mean(1).tolist(), abs=1e-6)
    assert std == pytest.approx(flat.std(1, correction=0).tolist(), abs=1e-6)
    with pytest.raises(ValueError, match="no images"):
        mean_std([])
