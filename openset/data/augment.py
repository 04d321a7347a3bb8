"""Random changes of training images, a whole batch at once, on the device where it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import VOID
from openset.data.pixmix import mixed
from openset.data.simclr import simclr
from openset.errors import unknown_name
from openset.sampling import uniform

PADDING = 4


ANGLE = 10.0
"""Largest rotation of `rotate_crop`, in degrees."""


LARGEST_ZOOM = 2.0
"""Largest factor by which `scale_crop_flip` enlarges or shrinks an image."""


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
    angle, area, x, y = uniform(4, n, images, generator)
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


def pixmix(images: Tensor, generator: torch.Generator) -> Tensor:
    """`crop_flip`, then PixMix (`openset.data.pixmix`): lifts robustness and near detection."""
    return mixed(crop_flip(images, generator), generator)


Augmentation = Callable[[Tensor, torch.Generator], Tensor]


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": unchanged,
    "crop": crop,
    "crop-flip": crop_flip,
    "rotate-crop": rotate_crop,
    "pixmix": pixmix,
    "simclr": simclr,
}
"""Functions of images `[N, C, H, W]` and a generator, by their names on the command line."""


def flip_labelled(
    images: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mirrors half of the images left to right, each with its label map."""
    (mirror,) = uniform(1, len(images), images, generator)
    turned = mirror < 0.5
    images = torch.where(turned[:, None, None, None], images.flip(-1), images)
    return images, torch.where(turned[:, None, None], labels.flip(-1), labels)


def scale_crop_flip(
    images: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random square of each image, enlarged or shrunk, half of them mirrored; labels alike.

    The square's side is the image's shorter one; the image is first scaled by ½…2, each doubling
    as likely. Labels are taken from the nearest pixel; what lies outside is black and `VOID`.

    Example:
        >>> images, labels = torch.rand(2, 3, 8, 12), torch.zeros(2, 8, 12, dtype=torch.long)
        >>> [x.shape for x in scale_crop_flip(images, labels, torch.Generator().manual_seed(0))]
        [torch.Size([2, 3, 8, 8]), torch.Size([2, 8, 8])]
    """
    n, channels, height, width = images.shape
    side = min(height, width)
    scale, x, y, mirror = uniform(4, n, images, generator)
    zoom = LARGEST_ZOOM ** (2 * scale - 1)
    # Half the extent of the square, in affine_grid's units: the image reaches from −1 to 1.
    half_x, half_y = side / width / zoom, side / height / zoom
    left = torch.where(mirror < 0.5, -half_x, half_x)
    centre_x, centre_y = (2 * x - 1) * (1 - half_x).abs(), (2 * y - 1) * (1 - half_y).abs()
    zero = torch.zeros_like(left)
    theta = torch.stack(
        [torch.stack([left, zero, centre_x], 1), torch.stack([zero, half_y, centre_y], 1)], dim=1
    )
    grid = F.affine_grid(theta, [n, channels, side, side], align_corners=False)
    # Shifted by VOID, so that the zeros that come from outside are void.
    shifted = (labels - VOID).to(images.dtype)[:, None]
    nearest = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)
    cropped = F.grid_sample(images, grid, align_corners=False)
    return cropped, nearest[:, 0].round().to(labels.dtype) + VOID


def square_flip(
    images: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random square of each image, of its shorter side, half of them mirrored; labels alike.

    Nothing is scaled and nothing comes from outside: the 512×512 crops of Grcić et al. 2021 from
    images whose shorter side is 512.

    Example:
        >>> images, labels = torch.rand(2, 3, 8, 12), torch.zeros(2, 8, 12, dtype=torch.long)
        >>> [x.shape for x in square_flip(images, labels, torch.Generator().manual_seed(0))]
        [torch.Size([2, 3, 8, 8]), torch.Size([2, 8, 8])]
    """
    n, _, height, width = images.shape
    side = min(height, width)
    down, right, mirror = uniform(3, n, images, generator)
    steps = torch.arange(side, device=images.device)
    rows = (down * (height - side + 1)).long()[:, None] + steps
    columns = (right * (width - side + 1)).long()[:, None] + steps
    columns = torch.where(mirror[:, None] < 0.5, columns.flip(1), columns)
    place = torch.arange(n, device=images.device)[:, None, None], rows[:, :, None], columns[:, None]
    return images.movedim(1, -1)[place].movedim(-1, 1), labels[place]


LabelledAugmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


LABELLED_AUGMENTATIONS: dict[str, LabelledAugmentation] = {
    "flip": flip_labelled,
    "scale-crop-flip": scale_crop_flip,
    "square-flip": square_flip,
}
"""Functions that change images `[N, C, H, W]` and label maps `[N, H, W]` alike, by name."""


def augmentation(name: str) -> LabelledAugmentation:
    """The change of that name, for images with labels of either kind.

    Raises:
        ValueError: For a name that does not exist; when it is used, for one that moves pixels but
            not their labels.
    """
    if name in LABELLED_AUGMENTATIONS:
        return LABELLED_AUGMENTATIONS[name]
    if name not in AUGMENTATIONS:
        raise ValueError(unknown_name("augmentation", name, AUGMENTATIONS | LABELLED_AUGMENTATIONS))

    def change(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if labels.dim() > 1:
            raise ValueError(
                f"augment={name} moves pixels but not their labels; for label maps there are: "
                f"{', '.join(LABELLED_AUGMENTATIONS)}"
            )
        return AUGMENTATIONS[name](images, generator), labels

    return change


def _crop(images: Tensor, generator: torch.Generator, flip: bool) -> Tensor:
    n, channels, height, width = images.shape
    down, right, mirror = uniform(3, n, images, generator)
    places = 2 * PADDING + 1
    rows = (down * places).long()[:, None] + torch.arange(height, device=images.device)
    columns = (right * places).long()[:, None] + torch.arange(width, device=images.device)
    if flip:
        columns = torch.where(mirror[:, None] < 0.5, columns.flip(1), columns)
    padded = F.pad(images, [PADDING] * 4)
    image = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
