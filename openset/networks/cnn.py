"""Plain convolutional networks for small images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from openset.networks.base import Backbone, described, initialised
from openset.spec import Count


@described
def cnn(
    classes: Count,
    channels: Count = 3,
    widths: Sequence[int] = (32, 64, 128),
    hidden: Count = 256,
) -> Backbone:
    """A small CNN with batch norm, for digits and other easy images of 8 px and more.

    Each stage is two 3×3 convolutions and a max-pool.

    Args:
        classes: The number of known classes.
        channels: Channels of the image.
        widths: Output channels of each stage.
        hidden: Size of the penultimate layer.

    Example:
        >>> import torch
        >>> cnn(classes=6, channels=1)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 6])
    """
    if not widths or min(*widths, hidden) < 1:
        raise ValueError(f"widths and hidden must be at least 1; got {list(widths)} and {hidden}")
    inputs = (channels, *widths[:-1])
    stages = [
        nn.Sequential(*convolution(i, o), *convolution(o, o), nn.MaxPool2d(2))
        for i, o in zip(inputs, widths, strict=True)
    ]
    # 3×3 is what three poolings leave of 28 px; the pool fits every other size to it.
    neck = nn.Sequential(
        nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * widths[-1], hidden), nn.ReLU()
    )
    return initialised(Backbone(channels, nn.Identity(), stages, neck, nn.Linear(hidden, classes)))


@described
def plain_cnn(classes: Count, channels: Count = 3) -> Backbone:
    """The plain CNN with which CROSR and VMDLS are compared on MNIST; no batch norm.

    Convolutions 100-100, 100-100 and 100, a max-pool after each group, and 500 features that no
    ReLU follows.

    Yoshihashi et al. 2019, "Classification-Reconstruction Learning for Open-Set Recognition",
    https://arxiv.org/abs/1812.04246

    Args:
        classes: The number of known classes.
        channels: Channels of the image.

    Example:
        >>> import torch
        >>> plain_cnn(classes=10, channels=1)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    stages = [plain_stage(channels, 100, 100), plain_stage(100, 100, 100), plain_stage(100, 100)]
    neck = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(900, 500))
    return initialised(Backbone(channels, nn.Identity(), stages, neck, nn.Linear(500, classes)))


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """3×3 convolution, batch norm, ReLU."""
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def plain_stage(*widths: int) -> nn.Sequential:
    """3×3 convolutions from each width to the next, each with ReLU, then a max-pool."""
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2))
