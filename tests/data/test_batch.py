"""A table of the forms in which batches and labels come: read, or refused in a sentence."""

import pytest
import torch
from datasets import Dataset as Table
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from openset.activations import UNKNOWN, VOID
from openset.data import batches
from openset.data.batch import as_labels, check_images
from openset.data.loaders import per_pixel
from openset.data.samples import samples

IMAGES = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
MAPS = torch.randint(0, 3, (6, 8, 8), generator=torch.Generator().manual_seed(0))
PIXELS = (IMAGES * 255).round().byte()


class Items(Dataset):
    """A data set of whatever `item` makes of an index."""

    def __init__(self, item):
        self.item = item

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return self.item(index)


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(IMAGES, LABELS.tolist(), strict=True)


class Once(IterableDataset):
    def __init__(self):
        self.rows = iter(zip(IMAGES, LABELS.tolist(), strict=True))

    def __iter__(self):
        return self.rows


def cells() -> dict:
    return {
        "image": [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in PIXELS],
        "label": LABELS.tolist(),
    }


LABELLED = {
    "pairs": lambda: [(IMAGES, LABELS)],
    "one pair of all": lambda: (IMAGES, LABELS),
    "arrays": lambda: (IMAGES.numpy(), LABELS.numpy()),
    "lists": lambda: [(IMAGES.tolist(), LABELS.tolist())],
    "lists of tensors": lambda: [(list(IMAGES), list(LABELS))],
    "uint8": lambda: [(PIXELS, LABELS)],
    "doubles": lambda: [(IMAGES.double(), LABELS)],
    "triples": lambda: [(IMAGES, LABELS, [f"{i}.png" for i in range(6)])],
    "dictionaries": lambda: [{"image": IMAGES, "label": LABELS, "id": "abcdef"}],
    "pixel_values": lambda: [{"pixel_values": IMAGES, "labels": LABELS}],
    "whole floats": lambda: [(IMAGES, LABELS.float())],
    "a column of labels": lambda: [(IMAGES, LABELS[:, None])],
    "one-hot": lambda: [(IMAGES, torch.eye(3)[LABELS])],
    "one-hot bool": lambda: [(IMAGES, torch.eye(3)[LABELS].bool())],
    "a data set": lambda: TensorDataset(IMAGES, LABELS),
    "samples of three": lambda: Items(lambda i: (IMAGES[i], int(LABELS[i]), f"{i}.png")),
    "samples as dictionaries": lambda: Items(lambda i: {"image": IMAGES[i], "label": LABELS[i]}),
    "samples one-hot": lambda: Items(lambda i: (IMAGES[i], torch.eye(3)[LABELS[i]])),
    "samples as arrays": lambda: Items(lambda i: (IMAGES[i].numpy(), LABELS[i].numpy())),
    "a loader": lambda: DataLoader(TensorDataset(IMAGES, LABELS), 4),
    "a stream": Stream,
    "a loader of a stream": lambda: DataLoader(Stream(), 4),
    "with an empty batch": lambda: [(IMAGES[:0], LABELS[:0]), (IMAGES, LABELS)],
    "a Hugging Face data set": lambda: Table.from_dict(cells()),
}


@pytest.mark.parametrize("source", LABELLED.values(), ids=LABELLED)
def test_labelled_images_are_read_in_any_clear_form(source):
    read = batches(source(), 4)
    for _ in range(2):
        found = list(read)
        assert all(len(image) for image, _ in found)
        assert torch.allclose(torch.cat([image for image, _ in found]).float(), IMAGES, atol=1e-6)
        assert torch.cat([label for _, label in found]).equal(LABELS)
    assert not per_pixel(source())


TRAINABLE = {name: make for name, make in LABELLED.items() if "stream" not in name}


@pytest.mark.parametrize("source", TRAINABLE.values(), ids=TRAINABLE)
def test_and_trained_on(source):
    found = samples(source(), torch.device("cpu"))
    image, label = found.take(torch.tensor([5, 0]))
    assert found.labels.equal(LABELS)
    assert torch.allclose(image, IMAGES[[5, 0]], atol=1e-6)
    assert image.dtype == torch.float32
    assert label.equal(LABELS[[5, 0]])


UNLABELLED = {
    "a tensor": lambda: IMAGES,
    "an array": lambda: PIXELS.numpy(),
    "a list of batches": lambda: [IMAGES[:4], IMAGES[4:]],
    "a tuple of one": lambda: [(IMAGES,)],
    "no label": lambda: [(IMAGES, None)],
    "a dictionary": lambda: [{"image": IMAGES}],
    "a data set of images": lambda: Items(lambda i: IMAGES[i]),
    "a data set without labels": lambda: Items(lambda i: (IMAGES[i], None)),
    "a tensor data set": lambda: TensorDataset(IMAGES),
    "a loader of images": lambda: DataLoader(list(IMAGES), 4),
    "a loader of a data set": lambda: DataLoader(TensorDataset(IMAGES), 4),
}


@pytest.mark.parametrize("source", UNLABELLED.values(), ids=UNLABELLED)
def test_images_alone_are_unknown_and_no_label_maps(source):
    found = list(batches(source(), 4))
    assert torch.allclose(torch.cat([image for image, _ in found]), IMAGES)
    assert torch.cat([label for _, label in found]).tolist() == [UNKNOWN] * 6
    assert not per_pixel(source())
    with pytest.raises(ValueError, match=r"no labels?; give pairs|images of shape"):
        samples(source(), torch.device("cpu")).take(torch.tensor([0]))


MAPPED = {
    "maps": lambda: [(IMAGES, MAPS)],
    "maps of one channel": lambda: [(IMAGES, MAPS[:, None])],
    "a data set": lambda: TensorDataset(IMAGES, MAPS),
    "a data set of dictionaries": lambda: Items(lambda i: {"image": IMAGES[i], "label": MAPS[i]}),
}


@pytest.mark.parametrize("source", MAPPED.values(), ids=MAPPED)
def test_label_maps_are_told_apart(source):
    assert per_pixel(source())
    assert torch.cat([label for _, label in batches(source())]).equal(MAPS)
    assert samples(source(), torch.device("cpu")).take(torch.tensor([3]))[1].equal(MAPS[[3]])


REFUSED = {
    "0…255": (lambda: [(IMAGES * 255, LABELS)], r"pixels in 0…255; give floats in 0…1"),
    "normalised": (lambda: [((IMAGES - 0.5) / 0.2, LABELS)], r"pixels in -2\.5…2\.5; .*normalised"),
    "uint16": (lambda: [((IMAGES * 65535).to(torch.uint16), LABELS)], "images of uint16"),
    "int64": (lambda: [(PIXELS.long(), LABELS)], "images of int64"),
    "bool": (lambda: [(IMAGES > 0.5, LABELS)], "images of bool"),
    "NaN": (lambda: [(IMAGES / torch.zeros(()), LABELS)], "NaN or infinite pixels"),
    "channels last": (lambda: [(IMAGES.permute(0, 2, 3, 1), LABELS)], r"channels last; .*permute"),
    "one image": (lambda: [(IMAGES[0], LABELS[:1])], r"shape \(3, 8, 8\); give \[N, C, H, W\]"),
    "text": (lambda: [(IMAGES, list("abcabc"))], "labels that are .*such as 'a'; .*index of each"),
    "fractions": (lambda: [(IMAGES, LABELS + 0.5)], r"labels such as 0\.5; give the index"),
    "soft labels": (lambda: [(IMAGES, torch.full((6, 3), 1 / 3))], r"labels such as 0\.3333"),
    "many labels": (lambda: [(IMAGES, torch.ones(6, 3))], r"shape \(6, 3\) that are not one-hot"),
    "truth": (lambda: [(IMAGES, LABELS > 1)], "labels True and False"),
    "negative": (lambda: [(IMAGES, LABELS - 9)], "has the label -9; give 0…K−1, -1 for unknown"),
    "NaN labels": (lambda: [(IMAGES, LABELS / 0.0)], "labels such as"),
    "too few": (lambda: [(IMAGES, LABELS[:4])], "6 images but 4 labels"),
    "other keys": (lambda: [{"a": IMAGES, "b": LABELS}], "keys a, b; name the images image"),
    "a number": (lambda: [3], "batch 0 is a int; expected a pair"),
    "a path": (lambda: "digits", "got str; give an ImageSet"),
    "a dictionary of all": (lambda: {"image": IMAGES}, "got dict; give an ImageSet"),
    "PIL images": (
        lambda: Items(lambda i: (Image.new("RGB", (8, 8)), 0)),
        "their images are Image; give tensors",
    ),
    "sizes": (lambda: Items(lambda i: (IMAGES[i][:, i:], 0)), r"tensors \[C, H, W\] of one size"),
    "a loader of PIL images": (
        lambda: DataLoader(Items(lambda i: (Image.new("RGB", (8, 8)), 0)), 4),
        "the loader cannot put samples together",
    ),
    "some labels": (
        lambda: Items(lambda i: (IMAGES[i], 1 if i else None)),
        "1 of 6 samples have no label",
    ),
}


@pytest.mark.parametrize(("source", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_unclear_is_refused_in_a_sentence(source, message):
    with pytest.raises(ValueError, match=message) as caught:
        list(batches(source()))
    assert "\n" not in str(caught.value)


def test_what_is_empty_when_it_is_read_again_is_refused():
    read = batches(Once())
    assert len(list(read)) == 1
    with pytest.raises(ValueError, match="gave no batch when it was read again"):
        list(read)


def test_bad_pixels_are_refused_for_training_too():
    cpu = torch.device("cpu")
    for bad in (IMAGES * 255, IMAGES - 0.5):
        with pytest.raises(ValueError, match="give floats in 0…1"):
            samples([(bad, LABELS)], cpu)
        with pytest.raises(ValueError, match="give floats in 0…1"):
            samples(Items(lambda i, bad=bad: (bad[i], 0)), cpu).take(torch.arange(2))


def test_rounding_may_leave_the_range_a_little():
    check_images(torch.tensor([[[[-0.0009, 1.0009]]]]))
    check_images(torch.zeros(0, 3, 8, 8))
    with pytest.raises(ValueError, match=r"pixels in 0…1\.01"):
        check_images(torch.tensor([[[[0.0, 1.01]]]]))


def test_unknown_and_void_are_labels():
    assert as_labels([UNKNOWN, VOID, 3]).tolist() == [UNKNOWN, VOID, 3]
