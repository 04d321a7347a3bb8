import math

import pytest
import torch
from scipy import ndimage

from openset.activations import VOID
from openset.data import AUGMENTATIONS
from openset.data.augment import (
    LABELLED_AUGMENTATIONS,
    crop,
    crop_flip,
    rotate_crop,
    scale_crop_flip,
    square_flip,
)
from openset.data.pixmix import mixed, pictures


def generator(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (3, 3, 12, 20)])
def test_every_augmentation_keeps_shape_range_and_repeats(name, shape):
    images = torch.rand(shape)
    kept = images.clone()
    before = torch.get_rng_state()
    changed = AUGMENTATIONS[name](images, generator())
    assert torch.equal(before, torch.get_rng_state())
    assert changed.shape == images.shape
    assert torch.equal(images, kept)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.equal(changed, AUGMENTATIONS[name](images, generator()))
    assert torch.equal(changed, AUGMENTATIONS[name](images, generator(1))) == (name == "none")


def windows(image: torch.Tensor) -> list[torch.Tensor]:
    padded = torch.nn.functional.pad(image, [4] * 4)
    height, width = image.shape[1:]
    return [padded[:, y : y + height, x : x + width] for y in range(9) for x in range(9)]


@pytest.mark.parametrize("flip", [False, True])
def test_each_crop_is_one_of_the_81_windows(flip):
    images = torch.rand(1, 3, 6, 7).expand(2000, -1, -1, -1)
    changed = (crop_flip if flip else crop)(images, generator())
    allowed = windows(images[0]) + ([w.flip(2) for w in windows(images[0])] if flip else [])
    which = (changed[:, None] == torch.stack(allowed)).flatten(2).all(2)
    assert which.any(1).all()
    counts = which.sum(0)
    assert counts.min() > 0  # every shift occurs, about equally often
    assert counts.max() < 4 * 2000 / len(allowed)


def test_rotation_agrees_with_scipy():
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    blob = torch.exp(-((y - 12) ** 2 + (x - 20) ** 2) / 20)[None, None]
    changed = rotate_crop(blob, generator(3))[0, 0].double()
    angle, area, u, v = torch.rand(4, 1, generator=generator(3)).double().squeeze(1).tolist()
    radians, side = math.radians(20 * angle - 10), math.sqrt(0.95 + 0.05 * area)
    cos, sin = side * math.cos(radians), side * math.sin(radians)
    matrix = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.double).numpy()  # rows: y, x
    shift = torch.tensor([2 * v - 1, 2 * u - 1]).double().numpy() * (1 - side) * 16
    offset = 15.5 - matrix @ [15.5, 15.5] + shift
    source = blob[0, 0].double().numpy()
    expected = ndimage.affine_transform(source, matrix, offset, order=1, mode="grid-constant")
    assert torch.allclose(changed, torch.from_numpy(expected), atol=1e-6)


def test_turning_keeps_circles_round_in_wide_images():
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(48.0), indexing="ij")
    disc = (((y - 11.5) ** 2 + (x - 23.5) ** 2) < 64).float()[None, None].expand(20, 1, -1, -1)
    turned = rotate_crop(disc, generator())[:, 0]
    high = (turned.amax(2) > 0.5).sum(1)
    wide = (turned.amax(1) > 0.5).sum(1)
    assert (high - wide).abs().max() <= 1


def coordinates(n=200, height=20, width=30):
    """Images whose two channels say where a pixel comes from, and label maps that say the same."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([(rows + 0.5) / height, (columns + 0.5) / width]).expand(n, -1, -1, -1)
    return image, (rows * width + columns).expand(n, -1, -1)


@pytest.mark.parametrize("name", sorted(LABELLED_AUGMENTATIONS))
def test_labels_move_with_their_pixels(name):
    """A label names the pixel it came from; the image's own value there must say the same."""
    image, label = coordinates()
    generator = torch.Generator().manual_seed(0)
    moved, its_label = LABELLED_AUGMENTATIONS[name](image, label, generator)
    side = 20
    assert moved.shape[2:] == its_label.shape[1:]
    inside = its_label != VOID
    # Off the border, where black comes in.
    row, column = its_label // 30, its_label % 30
    inner = inside & (row > 0) & (row < 19) & (column > 0) & (column < 29)
    assert inner.float().mean() > 0.5
    found = torch.stack([moved[:, 0] * side - 0.5, moved[:, 1] * 30 - 0.5])
    expected = torch.stack([row, column]).float()
    assert ((found - expected).abs().amax(0)[inner] < 0.51).all()
    assert (moved.amax(1)[~inside] <= 0.96).all()


def test_square_flip_cuts_whole_squares_and_mirrors_half():
    """Of wide and of high images; a label names the pixel that it came from."""
    for height, width in ((20, 30), (30, 20)):
        image, label = coordinates(height=height, width=width)
        cut, its_label = square_flip(image, label, torch.Generator().manual_seed(0))
        assert cut.shape == (200, 2, 20, 20)
        row, column = its_label // width, its_label % width
        assert (row.diff(dim=1) == 1).all()
        steps = column.diff(dim=2)
        assert (steps == steps[:, :1, :1]).all()
        assert 0.4 < (steps[:, 0, 0] == -1).float().mean() < 0.6
        assert set(row[:, 0, 0].tolist()) == {*range(height - 19)}
        assert set(column.amin((1, 2)).tolist()) == {*range(width - 19)}
        found = torch.stack([cut[:, 0] * height - 0.5, cut[:, 1] * width - 0.5])
        torch.testing.assert_close(found, torch.stack([row, column]).float(), atol=1e-3, rtol=0)


def test_scale_crop_flip_scales_mirrors_and_moves():
    image, label = coordinates()
    moved, its_label = scale_crop_flip(image, label, torch.Generator().manual_seed(0))
    assert moved.shape == (200, 2, 20, 20)
    step = moved[:, 1, 10, 11] - moved[:, 1, 10, 10]
    zoom = (1 / 30) / step.abs()
    assert 0.4 < (step < 0).float().mean() < 0.6
    assert zoom.min() >= 0.49
    assert zoom.max() <= 2.01
    assert 0.4 < (zoom < 1).float().mean() < 0.6
    assert (its_label == VOID).any()
    torch.testing.assert_close(
        scale_crop_flip(image, label, torch.Generator().manual_seed(0))[0], moved
    )


def test_pictures_of_pixmix_have_structure_on_all_scales():
    clouds = pictures(torch.zeros(200, 1, 32, 32), generator())
    assert (clouds.amin((1, 2, 3)) == 0).all()
    assert (clouds.amax((1, 2, 3)) == 1).all()
    power = torch.fft.rfft2(clouds).abs().square().mean((0, 1))
    falls = [power[0, k].log2() - power[0, 2 * k].log2() for k in (1, 2, 4)]
    assert all(2 <= fall <= 4 for fall in falls)  # Amplitudes like 1/f to 1/f².


def test_pixmix_leaves_some_images_and_keeps_what_they_show():
    images = torch.rand(400, 3, 8, 8, generator=generator())
    changed = mixed(images, generator())
    same = (changed == images).flatten(1).all(1).float().mean()
    assert 0.05 < same < 0.15  # Neither solarised (1/2) nor mixed (1/5).
    pairs = torch.stack([images.flatten(1), changed.flatten(1)], 1)
    assert torch.stack([pair.corrcoef()[0, 1] for pair in pairs]).nanmean() > 0.3
