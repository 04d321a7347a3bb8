import math

import pytest
import torch
from scipy import ndimage

from openset.data import AUGMENTATIONS
from openset.data.augment import crop, crop_flip, rotate_crop


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
