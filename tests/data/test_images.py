import io

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import openset.data.images as images_module
from openset.activations import UNKNOWN, VOID
from openset.data import Adapter, ImageSet
from openset.data.pixels import Encoded


def raw(n=7, channels=1, side=5) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8)


def png(pixels: torch.Tensor) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy()).save(out, "png")
    return out.getvalue()


def table(cells: list[dict]) -> Dataset:
    return Dataset.from_dict({"image": cells}, Features({"image": ImageFeature()}))


def encoded(pixels: torch.Tensor, extra: list[bytes] = []) -> Encoded:  # noqa: B006
    cells = [{"bytes": b, "path": f"{i}.png"} for i, b in enumerate([*map(png, pixels), *extra])]
    return Encoded(table(cells), "image", "set")


@pytest.fixture(params=["tensor", "encoded"])
def images(request) -> ImageSet:
    pixels = raw()
    source = pixels if request.param == "tensor" else encoded(pixels)
    made = ImageSet(source, torch.arange(7), name="set")
    made.truth = pixels
    return made


def test_every_way_of_reading_gives_the_same(images):
    truth = images.truth
    streamed = [*images.batches(3)]
    assert images._decoded is None
    assert [len(x) for x, _ in streamed] == [3, 3, 1]
    assert torch.equal(torch.cat([x for x, _ in streamed]), truth.float() / 255)
    assert torch.equal(torch.cat([y for _, y in streamed]), images.labels)
    assert torch.equal(images.images, truth)
    for (a, _), (b, _) in zip(streamed, images.batches(3), strict=True):
        assert torch.equal(a, b)
    image, label = images[-2]
    assert torch.equal(image, truth[5].float() / 255)
    assert label == 5
    taken, labels = images.take(torch.tensor([4, 4, 0]))
    assert torch.equal(taken, truth[[4, 4, 0]])
    assert labels.tolist() == [4, 4, 0]


def test_iterating_ends(images):
    assert len(list(images)) == len(images) == 7
    with pytest.raises(IndexError):
        images[7]


def test_a_single_reading_keeps_nothing_and_take_decodes_once(images):
    list(images.batches(2))
    images.read([1])
    assert images._decoded is None
    images.take(torch.tensor([1]))
    kept = images._decoded
    images.take(torch.tensor([2]))
    assert images._decoded is kept


def test_a_large_set_streams(images, monkeypatch):
    monkeypatch.setattr(images_module, "MEMORY_SHARE", 1e-12)
    taken, _ = images.take(torch.tensor([3, 1]))
    assert torch.equal(taken, images.truth[[3, 1]])
    assert images._decoded is None
    with pytest.raises(ValueError, match=r"7 decoded images .* batches\(\) or take\(\)"):
        _ = images.images


@given(st.lists(st.integers(0, 6), max_size=9), st.lists(st.booleans(), min_size=7, max_size=7))
def test_a_subset_of_a_subset_reads_the_right_rows(first, mask):
    pixels = raw()
    images = ImageSet(pixels, torch.arange(7))
    positions = torch.tensor(mask).nonzero().squeeze(1)
    chosen = images.subset(torch.tensor(mask))
    assert torch.equal(chosen.images, pixels[positions])
    first = [i for i in first if i < len(chosen)]
    again = chosen.subset(first)
    assert torch.equal(again.images, pixels[positions[first]])
    assert again.labels.tolist() == positions[first].tolist()


def test_decoded_images_stay_decoded_in_a_subset(images):
    _ = images.images
    subset = images.subset([2, 3])
    assert subset._decoded is not None
    assert torch.equal(subset.images, images.truth[2:4])


def test_an_empty_set_has_no_batches(images):
    empty = images.subset([])
    assert len(empty) == 0
    assert list(empty.batches(4)) == []
    assert empty.images.shape == (0, 1, 5, 5)


def test_other_labels(images):
    assert images.with_labels(UNKNOWN).labels.unique().tolist() == [UNKNOWN]
    assert images.with_labels(torch.ones(7)).labels.dtype == torch.long
    with pytest.raises(ValueError, match="7 images but 3 labels"):
        images.with_labels(torch.zeros(3))
    assert ImageSet(raw(2)).labels.tolist() == [UNKNOWN, UNKNOWN]


def test_fingerprint_follows_what_is_read():
    pixels = raw()
    made = ImageSet(encoded(pixels), torch.arange(7))
    assert made.fingerprint == ImageSet(encoded(pixels), torch.arange(7)).fingerprint
    changed = pixels.clone()
    changed[0, 0, 0, 0] ^= 1
    others = [
        ImageSet(encoded(changed), torch.arange(7)),
        ImageSet(encoded(pixels), torch.arange(7).flip(0)),
        ImageSet(encoded(pixels), torch.arange(7), Adapter((5, 5), 1, invert=True)),
        ImageSet(encoded(pixels), torch.arange(7), Adapter((4, 5), 1)),
        made.subset([0, 1]),
        made.subset([1, 0]),
    ]
    assert len({made.fingerprint, *(other.fingerprint for other in others)}) == 7
    tensor = ImageSet(pixels, torch.arange(7)).fingerprint
    assert tensor == ImageSet(pixels.clone(), torch.arange(7)).fingerprint
    assert tensor != ImageSet(changed, torch.arange(7)).fingerprint


def test_bad_images_are_named_or_skipped():
    pixels = raw()
    images = ImageSet(encoded(pixels, [b"", b"rubbish"]), torch.arange(9))
    with pytest.raises(ValueError, match=r"set\[7\] \(7\.png\): the file is empty"):
        list(images.batches(4))
    good = images.without_bad()
    assert len(good) == 7
    assert torch.equal(good.images, pixels)
    assert good.labels.tolist() == list(range(7))
    assert ["7.png" in good.skipped[0], "8.png" in good.skipped[1]] == [True, True]


def test_size_and_channels_come_from_the_images():
    assert ImageSet(raw(channels=3, side=6)).adapter == Adapter((6, 6), 3)
    assert ImageSet(encoded(raw(channels=3))).adapter == Adapter((5, 5), 3)
    mixed = table([{"bytes": png(raw(1, 1, side)[0]), "path": None} for side in (4, 6)])
    with pytest.raises(ValueError, match=r"differ in size, such as \(4, 4\) and \(6, 6\)"):
        ImageSet(Encoded(mixed, "image"))
    with pytest.raises(ValueError, match="no images"):
        ImageSet(raw(0))


def test_tensors_must_be_finite_and_four_dimensional():
    bad = torch.rand(2, 1, 3, 3)
    bad[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="mine holds NaN"):
        ImageSet(bad, name="mine")
    with pytest.raises(ValueError, match=r"shape \(3, 3\)"):
        ImageSet(torch.zeros(3, 3))


def test_large_pictures_are_decoded_in_order_by_threads():
    pixels = raw(12, 1, 512)
    assert torch.equal(ImageSet(encoded(pixels)).images, pixels)


def test_paths_name_images():
    made = ImageSet(encoded(raw(3)))
    assert made.subset([2]).paths == ["set[2] (2.png)"]


def dense() -> tuple[ImageSet, np.ndarray]:
    values = np.random.default_rng(0).integers(0, 4, (3, 4, 4)).astype(np.uint8)
    masks = encoded(torch.from_numpy(values)[:, None])
    table = torch.full((256,), VOID)
    table[:4] = torch.tensor([1, 0, UNKNOWN, VOID])
    return ImageSet(encoded(raw(3, 3, 4)), masks=masks, values=table), values


def test_labels_may_be_per_pixel():
    images, values = dense()
    expected = torch.tensor([1, 0, UNKNOWN, VOID])[torch.from_numpy(values).long()]
    for _, label in images.batches(5):
        assert torch.equal(label, expected)
    assert images._decoded_masks is None
    assert torch.equal(images[1][1], expected[1])
    _ = images.images
    assert torch.equal(images.take(torch.tensor([2, 0]))[1], expected[[2, 0]])
    assert images._decoded_masks.dtype == torch.uint8
    assert torch.equal(images.labels, expected)
    assert torch.equal(images.subset([1]).labels, expected[1:2])
    assert images.with_labels(3).labels.tolist() == [3, 3, 3]
