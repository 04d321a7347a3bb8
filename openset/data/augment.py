"""Random changes of training images, a whole batch at once, on the device where it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

PADDING = 4
ANGLE = 10.0
"""Largest rotation of `rotate_crop`, in degrees."""
AREA = 0.95
"""Smallest share of the image that `rotate_crop` keeps."""


def unchanged(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images as they are."""
    return images


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts each image by up to 4 pixels each way; what comes into view is black.

    Example:
        >>> crop(torch.ones(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """
    return _crop(images, generator, flip=False)


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """`crop`, and half of the images mirrored left to right: the usual one for CIFAR."""
    return _crop(images, generator, flip=True)


def rotate_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turns by up to 10° and enlarges a random 95–100 % of the area: VMDLS's for MNIST."""
    n, _, height, width = images.shape
    angle, area, x, y = _uniform(4, n, images, generator)
    radians = (2 * angle - 1) * math.radians(ANGLE)
    side = (AREA + (1 - AREA) * area).sqrt()
    cos, sin = radians.cos() * side, radians.sin() * side
    shift_x, shift_y = (2 * x - 1) * (1 - side), (2 * y - 1) * (1 - side)
    # affine_grid counts both axes from −1 to 1, so a turn of a wide image needs its proportions.
    first = torch.stack([cos, -sin * height / width, shift_x], dim=1)
    second = torch.stack([sin * width / height, cos, shift_y], dim=1)
    theta = torch.stack([first, second], dim=1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


Augmentation = Callable[[Tensor, torch.Generator], Tensor]

AUGMENTATIONS: dict[str, Augmentation] = {
    "none": unchanged,
    "crop": crop,
    "crop-flip": crop_flip,
    "rotate-crop": rotate_crop,
}
"""By the name on the command line: images `[N, C, H, W]` and a generator to images alike."""


def _crop(images: Tensor, generator: torch.Generator, flip: bool) -> Tensor:
    n, channels, height, width = images.shape
    down, right, mirror = _uniform(3, n, images, generator)
    places = 2 * PADDING + 1
    rows = (down * places).long()[:, None] + torch.arange(height, device=images.device)
    columns = (right * places).long()[:, None] + torch.arange(width, device=images.device)
    if flip:
        columns = torch.where(mirror[:, None] < 0.5, columns.flip(1), columns)
    padded = F.pad(images, [PADDING] * 4)
    image = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _uniform(rows: int, n: int, images: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers in 0…1, `[rows, n]`, on the images' device wherever the generator is."""
    numbers = torch.rand(rows, n, generator=generator, device=generator.device)
    return numbers.to(images.device)
