"""Two looks at an image that are to mean the same: SimCLR's crops and colours, a batch at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.sampling import uniform

RATIO = 4 / 3
"""Largest factor by which a crop is wider or taller than the image."""


JITTER, HUE = 0.4, 0.1
"""Largest change of brightness, contrast and saturation, and of the hue in turns."""


JITTERED, GREY = 0.8, 0.2
"""Shares of the images whose colours change, and that lose them."""


def simclr(
    images: Tensor, generator: torch.Generator, area: float = 0.08, flip: bool = True
) -> Tensor:
    """A random part of each image, enlarged to its size, half of them mirrored, in other colours.

    Chen et al., 2020, https://arxiv.org/abs/2002.05709, as CSI has it for small images. Hues turn
    about the grey axis of RGB; a grey image has none and changes in brightness and contrast alone.

    Args:
        images: `[N, C, H, W]` in 0…1.
        generator: The source of all that is random.
        area: Smallest share of the image that is kept, of which the largest is all.
        flip: Whether half of the images are mirrored left to right.

    Example:
        >>> simclr(torch.rand(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """
    return recoloured(resized_crop(images, generator, area, flip), generator)


def resized_crop(images: Tensor, generator: torch.Generator, area: float, flip: bool) -> Tensor:
    """A random part of each image, enlarged to its size; arguments as those of `simclr`."""
    share, stretch, x, y, mirror = uniform(5, len(images), images, generator)
    share = area + (1 - area) * share
    stretch = (math.log(RATIO) * (2 * stretch - 1)).exp()
    wide, tall = ((share * s).sqrt().clamp_max(1) for s in (stretch, 1 / stretch))
    # In affine_grid's units an image reaches from −1 to 1.
    right, down = (2 * x - 1) * (1 - wide), (2 * y - 1) * (1 - tall)
    wide = torch.where(mirror < 0.5, -wide, wide) if flip else wide
    zero = torch.zeros_like(wide)
    theta = torch.stack(
        [torch.stack([wide, zero, right], 1), torch.stack([zero, tall, down], 1)], dim=1
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def recoloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Other brightness, contrast, saturation and hue for four images in five; one in five grey."""
    draws = uniform(6, len(images), images, generator)
    signed = torch.where(draws[4] < JITTERED, 2 * draws[:4] - 1, 0)
    brightness, contrast, saturation = 1 + JITTER * signed[:3]
    if images.shape[1] == 3:
        saturation = torch.where(draws[5] < GREY, 0, saturation)
        images = torch.einsum(
            "nij,njhw->nihw", hues(2 * math.pi * HUE * signed[3], saturation), images
        )
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * contrast.view(-1, 1, 1, 1)
    return (images * brightness.view(-1, 1, 1, 1)).clamp(0, 1)


def hues(angle: Tensor, saturation: Tensor) -> Tensor:
    """Matrices `[N, 3, 3]` that turn RGB about the grey axis and scale the distance to it.

    Example:
        >>> grey = torch.full((3,), 0.5)
        >>> hues(torch.tensor([1.0]), torch.tensor([0.3])) @ grey
        tensor([[0.5000, 0.5000, 0.5000]])
    """
    one, grey = torch.eye(3).to(angle), torch.full((3, 3), 1 / 3).to(angle)
    around = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]).to(angle) / math.sqrt(3)
    cos, sin, scale = (x.view(-1, 1, 1) for x in (angle.cos(), angle.sin(), saturation))
    return grey + scale * (cos * (one - grey) + sin * around)
