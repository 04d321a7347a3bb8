"""Ladder-DenseNet-121, the segmentation network of the dense experiments."""

from __future__ import annotations

from torch import nn

from openset.networks.base import described
from openset.networks.densenet import DenseLayer
from openset.networks.ladder import Ladder, Parts, initialised_ladder
from openset.spec import Count

PART = 3
"""Dense layers that are computed again together, where memory is short."""


@described
def ladder_densenet_121(classes: Count, channels: Count = 3, checkpoint: bool = False) -> Ladder:
    """Labels pixels with a DenseNet-121 and a ladder of 256, 256 and 128 channels back up.

    Krešo, Krapac & Šegvić 2020, "Efficient Ladder-style DenseNets for Semantic Segmentation of
    Large Images", https://arxiv.org/abs/1905.05661. The logits lie on a quarter of the image's
    resolution and are enlarged bilinearly. Sides should be multiples of 32.

    Args:
        classes: The number of known classes.
        channels: Channels of the image.
        checkpoint: Compute the network in parts again in the backward pass instead of storing it.

    Example:
        >>> ladder_densenet_121(classes=19).head
        Conv2d(128, 19, kernel_size=(1, 1), stride=(1, 1))
    """
    growth, blocks = 32, (6, 12, 24, 16)
    stem = nn.Sequential(
        nn.Conv2d(channels, 2 * growth, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(2 * growth),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    stages, transitions, widths, width = [], [], [], 2 * growth
    for count in blocks:
        layers = [DenseLayer(width + i * growth, growth) for i in range(count)]
        stages.append(Parts(*(nn.Sequential(*layers[i : i + PART]) for i in range(0, count, PART))))
        width += count * growth
        widths.append(width)
        if len(stages) < len(blocks):
            transitions.append(ladder_transition(width, width // 2))
            width //= 2
    network = Ladder(
        channels, stem, stages, transitions, widths, 512, (256, 256, 128), classes, checkpoint
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Few large crops a batch: a slow mean, as in the authors' code.
            module.momentum = 0.01
    return initialised_ladder(network)


def ladder_transition(inputs: int, outputs: int) -> nn.Sequential:
    """Transition between two blocks: fewer channels by a 1×1 convolution, and half the side."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    )
