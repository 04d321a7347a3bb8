"""The VGG networks of the papers, for small images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from openset.networks.base import Backbone, described, initialised
from openset.spec import Count


@described
def vgg(classes: Count, channels: Count = 3) -> Backbone:
    """The shortened VGG with batch norm that VMDLS has on CIFAR-10.

    Convolutions 64-128, 256-256 and 256-256-256-256, a max-pool after each group, then two
    layers of 1,024 features. That of CROSR, beside whose figures it stands, begins with 64-64 and
    128-128 and has dropout.

    Dinari & Freifeld 2022, "Variational- and Metric-based Deep Latent Space for Out-of-Distribution
    Detection", https://proceedings.mlr.press/v180/dinari22a.html

    Args:
        classes: The number of known classes.
        channels: Channels of the image, which has 8 px or more a side; published with 32.

    Example:
        >>> vgg(classes=6).head
        Linear(in_features=1024, out_features=6, bias=True)
    """
    widths = [(channels, 64, 128), (128, 256, 256), (256, 256, 256, 256, 256)]
    stages = [convolutions(group, batch_norm=True) for group in widths]
    # Three poolings of the published 32 px leave 4×4; the pool fits other sizes to it.
    neck = nn.Sequential(
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(16 * 256, 1024),
        nn.ReLU(),
        nn.Linear(1024, 1024),
        nn.ReLU(),
    )
    return initialised(Backbone(channels, nn.Identity(), stages, neck, nn.Linear(1024, classes)))


@described
def vgg13(
    classes: Count, channels: Count = 3, dropout: float = 0.5, normalize: bool = True
) -> Backbone:
    """VGG-13 without batch norm, as the papers on synthetic outliers train it on CIFAR-10.

    Simonyan & Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", https://arxiv.org/abs/1409.1556; with the two layers of 512 features of Lee et
    al. 2018, "Training Confidence-calibrated Classifiers", https://arxiv.org/abs/1711.09325

    Args:
        classes: The number of known classes.
        channels: Channels of the image, which has 32 px a side as published; others work too.
        dropout: Share of features dropped before each of the two layers.
        normalize: Whether images are normalised; in those papers they are not.

    Example:
        >>> vgg13(classes=10).stages
        ('stage1', 'stage2', 'stage3', 'stage4', 'stage5')
    """
    widths = [(channels, 64, 64), (64, 128, 128), (128, 256, 256), (256, 512, 512), (512, 512, 512)]
    stages = [convolutions(group, batch_norm=False) for group in widths]
    neck = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(512, 512),
        nn.ReLU(),
    )
    network = Backbone(channels, nn.Identity(), stages, neck, nn.Linear(512, classes))
    if not normalize:
        network.normalize = nn.Identity()
    return initialised(network)


def convolutions(widths: Sequence[int], batch_norm: bool) -> nn.Sequential:
    """3×3 convolutions from each width to the next, each with ReLU, then a max-pool."""
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers.append(nn.Conv2d(i, o, 3, padding=1, bias=not batch_norm))
        layers += [nn.BatchNorm2d(o)] if batch_norm else []
        layers.append(nn.ReLU())
    # Rounding up changes nothing where the side is even, and leaves a pixel of the smallest maps.
    return nn.Sequential(*layers, nn.MaxPool2d(2, ceil_mode=True))
