"""Densely connected networks with bottlenecks and compression."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from openset.networks.base import Backbone, described, initialised, pooled_neck
from openset.networks.resnet import Stem, make_stem
from openset.spec import Count


@described
def densenet_121(classes: Count, channels: Count = 3, stem: Stem = "small") -> Backbone:
    """DenseNet-121, with the stem for images of up to 64 px unless the large one is asked for.

    Huang et al. 2017, "Densely Connected Convolutional Networks",
    https://arxiv.org/abs/1608.06993

    Args:
        classes: The number of known classes.
        channels: Channels of the image.
        stem: `"small"` keeps the resolution; `"large"` divides it by four, for images of
            128 px and more.

    Example:
        >>> densenet_121(classes=6).head
        Linear(in_features=1024, out_features=6, bias=True)
    """
    return densenet((6, 12, 24, 16), 32, classes, channels, stem)


@described
def densenet_bc_100(classes: Count, channels: Count = 3) -> Backbone:
    """DenseNet-BC of depth 100 and growth 12: 0.8 million weights, for images of up to 64 px.

    Huang et al. 2017, "Densely Connected Convolutional Networks",
    https://arxiv.org/abs/1608.06993

    Args:
        classes: The number of known classes.
        channels: Channels of the image.

    Example:
        >>> densenet_bc_100(classes=6).head
        Linear(in_features=342, out_features=6, bias=True)
    """
    return densenet((16, 16, 16), 12, classes, channels, "small")


@described
def densenet_bc_40(classes: Count, channels: Count = 3) -> Backbone:
    """DenseNet-BC of depth 40 and growth 12, that a CPU can train, for images of up to 64 px.

    Huang et al. 2017, "Densely Connected Convolutional Networks",
    https://arxiv.org/abs/1608.06993; not one of the sizes that they publish.

    Args:
        classes: The number of known classes.
        channels: Channels of the image.

    Example:
        >>> densenet_bc_40(classes=6).head
        Linear(in_features=132, out_features=6, bias=True)
    """
    return densenet((6, 6, 6), 12, classes, channels, "small")


def densenet(
    blocks: Sequence[int], growth: int, classes: int, channels: int, stem: Stem
) -> Backbone:
    """A DenseNet-BC with that many layers in each block.

    A stage is a block with the transition after it, so that all but the last are half as wide as
    their block; the last block has no transition.
    """
    width = 2 * growth
    # Each layer begins with its own batch norm and ReLU, so the small stem is the bare convolution.
    first = make_stem(stem, channels, width)
    first = first[:1] if stem == "small" else first
    stages = []
    for i, count in enumerate(blocks):
        layers: list[nn.Module] = [DenseLayer(width + j * growth, growth) for j in range(count)]
        width += count * growth
        if i < len(blocks) - 1:
            layers.append(transition(width, width // 2))
            width //= 2
        stages.append(nn.Sequential(*layers))
    neck = pooled_neck(nn.BatchNorm2d(width), nn.ReLU())
    return initialised(Backbone(channels, first, stages, neck, nn.Linear(width, classes)))


def transition(inputs: int, outputs: int) -> nn.Sequential:
    """Transition between two blocks: fewer channels by a 1×1 convolution, and half the side."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.AvgPool2d(2),
    )


class DenseLayer(nn.Module):
    """Adds `growth` channels to its input: a 1×1 convolution to 4 × growth, then a 3×3.

    Args:
        inputs: Channels that come in.
        growth: Channels that are added.
    """

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], dim=1)
