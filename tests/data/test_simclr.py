"""SimCLR's views: how much of an image a crop shows, and what happens to its colours."""

import colorsys
import math

import pytest
import torch

from openset.data.simclr import RATIO, hues, recoloured, resized_crop


def generator():
    return torch.Generator().manual_seed(0)


def slopes(flip, area=0.3):
    """The width and height of crops as shares of the image, from ramps along both axes."""
    ramp = torch.arange(64.0).expand(500, 1, 64, 64)
    across = resized_crop(ramp, generator(), area, flip)[:, 0]
    down = resized_crop(ramp.mT, generator(), area, flip)[:, 0]
    return across[:, 32, 40] - across[:, 32, 24], down[:, 40, 32] - down[:, 24, 32]


def test_crops_show_the_shares_they_are_to():
    wide, tall = (x / 16 for x in slopes(flip=False))
    share = wide * tall
    assert 0.3 - 1e-3 <= share.min() < 0.35
    assert 0.9 < share.max() <= 1 + 1e-3
    assert (wide / tall).max() <= RATIO + 1e-3
    assert (wide / tall).min() >= 1 / RATIO - 1e-3
    assert wide.max() <= 1 + 1e-3


def test_half_of_the_views_are_mirrored():
    assert (slopes(flip=False)[0] > 0).all()
    assert 0.4 < (slopes(flip=True)[0] < 0).float().mean() < 0.6


def test_a_third_of_a_turn_takes_red_to_green():
    turn = hues(torch.tensor([2 * math.pi / 3]), torch.ones(1))[0]
    torch.testing.assert_close(turn @ torch.eye(3), torch.eye(3).roll(1, 0), atol=1e-6, rtol=0)
    torch.testing.assert_close(hues(torch.zeros(1), torch.ones(1))[0], torch.eye(3))
    for angle, saturation in ((0.0, 0.0), (1.0, 0.5), (2.0, 1.4)):
        changed = hues(torch.tensor([angle]), torch.tensor([saturation]))[0]
        torch.testing.assert_close(changed @ torch.ones(3), torch.ones(3))


@pytest.mark.parametrize("turn", [1 / 3, 2 / 3])
def test_pure_colours_turn_as_their_hue_does(turn):
    for pure in ((1, 0, 0), (0, 1, 0), (1, 1, 0)):
        hue, saturation, value = colorsys.rgb_to_hsv(*pure)
        expected = torch.tensor(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
        found = (
            hues(torch.tensor([2 * math.pi * turn]), torch.ones(1))[0] @ torch.tensor(pure).float()
        )
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_one_image_in_five_loses_its_colours_and_one_in_five_keeps_all():
    images = 0.4 + 0.2 * torch.rand(2000, 3, 4, 4)
    changed = recoloured(images, generator())
    grey = (changed.std(1) < 1e-6).flatten(1).all(1).float().mean()
    same = (changed - images).abs().flatten(1).amax(1) < 1e-6
    assert grey == pytest.approx(0.2, abs=0.03)
    assert same.float().mean() == pytest.approx(0.2 * 0.8, abs=0.03)


def test_a_grey_image_has_no_hue_to_lose():
    images = 0.4 + 0.2 * torch.rand(2000, 1, 4, 4)
    changed = recoloured(images, generator())
    assert ((changed - images).abs().flatten(1).amax(1) < 1e-6).float().mean() == pytest.approx(
        0.2, abs=0.03
    )
