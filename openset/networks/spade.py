"""A generator that draws images from class maps, and a discriminator of such pairs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from openset.networks.base import described
from openset.spec import Count


def class_maps(label: Tensor, classes: int, size: Sequence[int]) -> Tensor:
    """A map `[N, K, H, W]` for each class, 1 where the labels `[N, *grid]` name it and else 0.

    Labels of whole images name their class everywhere; void and unknown pixels have none.

    Example:
        >>> class_maps(torch.tensor([[[1, -100]]]), 2, (1, 2)).tolist()
        [[[[0.0, 0.0]], [[1.0, 0.0]]]]
    """
    named = F.one_hot(label.clamp(min=0), classes) * (label >= 0)[..., None]
    maps = named.movedim(-1, 1).float()
    return maps if label.dim() > 1 else maps[:, :, None, None].expand(-1, -1, *size)


class Spade(nn.Module):
    """Draws images in 0…1 from class maps, whose layout modulates every layer.

    Each image is normalised by itself, so that it is drawn alike alone and in any batch, in
    training and later.

    Args:
        classes: Number of classes K, as of the maps.
        channels: Channels of the image.
        width: Maps before the last layer.
    """

    spec: dict[str, Any] | None = None

    def __init__(self, classes: int, channels: int, width: int):
        super().__init__()
        self.classes, self.channels = classes, channels
        widths = (4 * width, 4 * width, 4 * width, 2 * width, width)
        self.first = nn.Conv2d(classes, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(Block(i, o, classes, width) for i, o in pairwise(widths))
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Images `[N, C, H, W]` from maps `[N, K, H, W]` of any size."""
        grids = [[-(-side // 2**i) for side in maps.shape[2:]] for i in (3, 2, 1, 0)]
        x = self.first(F.interpolate(maps, grids[0]))
        for grid, block in zip(grids, self.blocks, strict=True):
            x = block(F.interpolate(x, grid), F.interpolate(maps, grid))
        return self.last(F.leaky_relu(x, 0.2)).sigmoid()


class Block(nn.Module):
    """A residual convolution of features that are normalised, then scaled and shifted by place.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        classes: As of the maps.
        hidden: Channels between the maps and the scales.
    """

    def __init__(self, inputs: int, outputs: int, classes: int, hidden: int):
        super().__init__()
        self.read = nn.Conv2d(classes, hidden, 3, padding=1)
        self.scale = nn.Conv2d(hidden, inputs, 3, padding=1)
        self.shift = nn.Conv2d(hidden, inputs, 3, padding=1)
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
        same = inputs == outputs
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        read = self.read(maps).relu()
        plain = F.layer_norm(x, x.shape[2:])  # Each channel of each image by itself.
        placed = plain * (1 + self.scale(read)) + self.shift(read)
        return self.skip(x) + self.convolution(F.leaky_relu(placed, 0.2))


class PatchDiscriminator(nn.Module):
    """Tells patches of images from drawn ones, beside the class maps that they are to show.

    Args:
        classes: Number of classes K, as of the maps.
        channels: Channels of the image.
        width: Maps of the first layer.
        scales: Number of sizes at which an image is looked at, each half of the last.
    """

    def __init__(self, classes: int, channels: int, width: int, scales: int = 2):
        super().__init__()
        self.scales = nn.ModuleList(patches(classes + channels, width) for _ in range(scales))

    def forward(self, maps: Tensor, image: Tensor) -> list[list[Tensor]]:
        """What each layer gives, by scale; the last is the logit of each patch that it is real."""
        x = torch.cat([maps.to(image), image], dim=1)
        seen: list[list[Tensor]] = []
        for layers in self.scales:
            found = [x]
            for layer in layers.children():
                found.append(layer(found[-1]))
            seen.append(found[1:])
            x = F.avg_pool2d(x, 3, stride=2, padding=1)
        return seen


def patches(inputs: int, width: int) -> nn.Sequential:
    """The layers of one scale: two halvings, a layer at that size, and the logits."""

    def layer(i: int, o: int, side: int, stride: int) -> nn.Sequential:
        convolution = spectral_norm(nn.Conv2d(i, o, side, stride, 1, bias=False))
        return nn.Sequential(convolution, nn.GroupNorm(o, o, affine=False), nn.LeakyReLU(0.2))

    return nn.Sequential(
        nn.Sequential(nn.Conv2d(inputs, width, 4, 2, 1), nn.LeakyReLU(0.2)),
        layer(width, 2 * width, 4, 2),
        layer(2 * width, 4 * width, 3, 1),
        nn.Conv2d(4 * width, 1, 3, 1, 1, bias=False),
    )


@described
def spade(classes: Count, channels: Count = 3, width: Count = 16) -> Spade:
    """A small generator of images from class maps `[N, K, H, W]` (SPADE), of any size.

    It begins on an eighth of the image's grid and doubles three times; the published one has a
    width of 64, spectral norm and seven blocks.

    Park et al. 2019, "Semantic Image Synthesis with Spatially-Adaptive Normalization",
    https://arxiv.org/abs/1903.07291

    Args:
        classes: The number of known classes.
        channels: Channels of the image.
        width: Channels before the last layer; four times as many at the start.

    Example:
        >>> spade(classes=5, width=4)(torch.rand(2, 5, 30, 41)).shape
        torch.Size([2, 3, 30, 41])
    """
    return Spade(classes, channels, width)
