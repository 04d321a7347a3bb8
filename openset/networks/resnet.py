"""Residual networks of basic blocks."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.base import Backbone, described, initialised, pooled_neck
from openset.spec import Count

Stem = Literal["small", "large"]


@described
def resnet18(
    classes: Count, channels: Count = 3, stem: Stem = "small", width: Count = 64
) -> Backbone:
    """ResNet-18, with the stem for images of up to 64 px unless the large one is asked for.

    He et al. 2016, "Deep Residual Learning for Image Recognition",
    https://arxiv.org/abs/1512.03385

    Args:
        classes: The number of known classes.
        channels: Channels of the image.
        stem: `"small"` keeps the resolution; `"large"` divides it by four, for images of
            128 px and more.
        width: Channels of the first stage; each later one has twice as many.

    Example:
        >>> resnet18(classes=6, width=16).head
        Linear(in_features=128, out_features=6, bias=True)
    """
    return resnet((2, 2, 2, 2), classes, channels, stem, width)


@described
def resnet34(
    classes: Count, channels: Count = 3, stem: Stem = "small", width: Count = 64
) -> Backbone:
    """ResNet-34, with the stem for images of up to 64 px unless the large one is asked for.

    He et al. 2016, "Deep Residual Learning for Image Recognition",
    https://arxiv.org/abs/1512.03385

    Takes what `resnet18` takes.

    Example:
        >>> resnet34(classes=6, width=16).head
        Linear(in_features=128, out_features=6, bias=True)
    """
    return resnet((3, 4, 6, 3), classes, channels, stem, width)


def resnet(
    blocks: tuple[int, ...], classes: int, channels: int, stem: Stem, width: int
) -> Backbone:
    """A residual network with that many basic blocks in each stage."""
    widths = [width * 2**i for i in range(len(blocks))]
    stages = []
    for i, (count, outputs) in enumerate(zip(blocks, widths, strict=True)):
        first = BasicBlock(widths[max(i - 1, 0)], outputs, stride=2 if i else 1)
        stages.append(
            nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(count - 1)))
        )
    head = nn.Linear(widths[-1], classes)
    return initialised(
        Backbone(channels, make_stem(stem, channels, width), stages, pooled_neck(), head)
    )


def make_stem(stem: Stem, channels: int, width: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU: 3×3 for small images, 7×7 with pooling for large ones."""
    if stem not in ("small", "large"):
        raise ValueError(f"stem is {stem!r}; expected 'small' or 'large'")
    if stem == "small":
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
    return nn.Sequential(
        nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut; the ReLU comes after their sum.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Step of the first convolution, and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))
