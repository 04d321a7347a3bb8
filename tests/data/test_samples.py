"""Every form of training data gives the same images and labels by index."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from openset.activations import VOID
from openset.data import ImageSet
from openset.data import samples as module
from openset.data.samples import samples

CPU = torch.device("cpu")
PIXELS = torch.randint(256, (7, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator())
LABELS = torch.tensor([0, 2, 1, VOID, 0, 1, 2])


class Pairs(Dataset):
    """A data set as users write them, without labels to look up."""

    def __init__(self, labels=LABELS):
        self.labels_ = labels

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, index):
        return PIXELS[index].float() / 255, self.labels_[index]


class WithTargets(Pairs):
    targets = LABELS.tolist()


SOURCES = {
    "image set": lambda: ImageSet(PIXELS, LABELS),
    "tensors": lambda: TensorDataset(PIXELS, LABELS),
    "batches": lambda: [(PIXELS[:5], LABELS[:5]), (PIXELS[5:], LABELS[5:])],
    "float batches": lambda: [(PIXELS.float() / 255, LABELS)],
    "pairs": Pairs,
    "targets": WithTargets,
    "loader": lambda: DataLoader(Pairs(), batch_size=2, shuffle=True),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_takes_images_and_labels_by_index(source):
    found = samples(source(), CPU)
    image, label = found.take(torch.tensor([6, 0, 3]))
    assert len(found) == 7
    assert found.labels.equal(LABELS)
    assert image.equal(PIXELS[[6, 0, 3]].float() / 255)
    assert label.equal(LABELS[[6, 0, 3]])


def test_large_image_sets_are_read_as_they_are_needed(monkeypatch):
    monkeypatch.setattr(module, "HELD_BYTES", 10)
    found = samples(ImageSet(PIXELS, LABELS), CPU)
    assert found.take(torch.tensor([2]))[0].equal(PIXELS[[2]].float() / 255)


def test_label_maps_have_no_label_per_image():
    maps = torch.randint(3, (7, 4, 4))
    for source in (Pairs(maps), [(PIXELS, maps)]):
        found = samples(source, CPU)
        assert found.labels.tolist() == [VOID] * 7
        assert found.take(torch.tensor([1]))[1].equal(maps[[1]])


def test_batches_are_in_order_and_come_again():
    batches = samples(Pairs(), CPU).batches(3)
    for _ in range(2):
        labels = [label for _, label in batches]
        assert [len(label) for label in labels] == [3, 3, 1]
        assert len(batches) == 3
        assert torch.cat(labels).equal(LABELS)


def test_random_transforms_stay_random():
    class Noisy(Pairs):
        def __getitem__(self, index):
            return torch.rand(3, 4, 4), 0

    found = samples(Noisy(), CPU)
    first, second = (found.take(torch.arange(2))[0] for _ in range(2))
    assert not first.equal(second)


def test_the_summary_tells_labels_apart():
    one, two = LABELS, LABELS.flip(0)
    prints = [samples([(PIXELS, label)], CPU).summary() for label in (one, two, one)]
    assert prints[0] == prints[2] != prints[1]


def test_a_target_transform_counts():
    class Shifted(WithTargets):
        target_transform = staticmethod(lambda label: label if label == VOID else label + 1)

        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image, self.target_transform(label)

    expected = torch.where(LABELS == VOID, VOID, LABELS + 1)
    assert samples(Shifted(), CPU).labels.equal(expected)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (PIXELS[:, 0], LABELS, r"shape \(7, 4, 4\); give \[N, C, H, W\]"),
        (PIXELS, LABELS[:3], "7 images but 3 labels"),
        (PIXELS / 0.0, LABELS, "NaN or infinite pixels"),
    ],
)
def test_refuses_tensors_that_are_no_images(images, labels, message):
    with pytest.raises(ValueError, match=message):
        samples([(images, labels)], CPU)


class Stream(IterableDataset):
    def __iter__(self):
        yield from Pairs()


@pytest.mark.parametrize("source", [Stream(), DataLoader(Stream()), iter([]), 3])
def test_refuses_what_cannot_be_read_by_index(source):
    with pytest.raises(ValueError, match="cannot be read by index; give an ImageSet"):
        samples(source, CPU)


@pytest.mark.parametrize("source", [[], TensorDataset(PIXELS[:0], LABELS[:0])])
def test_refuses_nothing(source):
    with pytest.raises(ValueError, match="the training set is empty"):
        samples(source, CPU)
