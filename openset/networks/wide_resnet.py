"""Wide residual networks, pre-activated."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.base import Backbone, described, initialised, pooled_neck
from openset.spec import Count


@described
def wrn_16_2(classes: Count, channels: Count = 3, dropout: float = 0.0) -> Backbone:
    """Wide ResNet of depth 16 and width 2: 0.7 million weights, small enough for a CPU.

    Zagoruyko & Komodakis 2016, "Wide Residual Networks", https://arxiv.org/abs/1605.07146

    Takes what `wrn_28_10` takes.

    Example:
        >>> wrn_16_2(classes=6).head
        Linear(in_features=128, out_features=6, bias=True)
    """
    return wide_resnet(16, 2, classes, channels, dropout)


@described
def wrn_16_4(classes: Count, channels: Count = 3, dropout: float = 0.0) -> Backbone:
    """Wide ResNet of depth 16 and width 4: 2.7 million weights.

    Zagoruyko & Komodakis 2016, "Wide Residual Networks", https://arxiv.org/abs/1605.07146

    Takes what `wrn_28_10` takes.

    Example:
        >>> wrn_16_4(classes=6).head
        Linear(in_features=256, out_features=6, bias=True)
    """
    return wide_resnet(16, 4, classes, channels, dropout)


@described
def wrn_28_10(classes: Count, channels: Count = 3, dropout: float = 0.0) -> Backbone:
    """Wide ResNet of depth 28 and width 10: 36.5 million weights, the papers' CIFAR backbone.

    Zagoruyko & Komodakis 2016, "Wide Residual Networks", https://arxiv.org/abs/1605.07146

    Args:
        classes: The number of known classes.
        channels: Channels of the image.
        dropout: Share of channels' values dropped between a block's convolutions; VMDLS has 0.1.

    Example:
        >>> wrn_28_10(classes=6).head
        Linear(in_features=640, out_features=6, bias=True)
    """
    return wide_resnet(28, 10, classes, channels, dropout)


def wide_resnet(depth: int, width: int, classes: int, channels: int, dropout: float) -> Backbone:
    """A wide residual network whose depth is six times its blocks per stage, plus four."""
    widths = [16, 16 * width, 32 * width, 64 * width]
    stages = []
    for i, outputs in enumerate(widths[1:]):
        first = PreactivatedBlock(widths[i], outputs, 2 if i else 1, dropout)
        rest = [
            PreactivatedBlock(outputs, outputs, 1, dropout) for _ in range((depth - 4) // 6 - 1)
        ]
        stages.append(nn.Sequential(first, *rest))
    stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
    neck = pooled_neck(nn.BatchNorm2d(widths[-1]), nn.ReLU())
    return initialised(Backbone(channels, stem, stages, neck, nn.Linear(widths[-1], classes)))


class PreactivatedBlock(nn.Module):
    """Two 3×3 convolutions, each after batch norm and ReLU, beside a shortcut.

    Where the shape changes, the shortcut is a 1×1 convolution of the activated input.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Step of the first convolution, and of the shortcut.
        dropout: Share of values dropped between the convolutions.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        y = self.dropout(F.relu(self.norm2(self.conv1(active))))
        return self.conv2(y) + (x if self.shortcut is None else self.shortcut(active))
