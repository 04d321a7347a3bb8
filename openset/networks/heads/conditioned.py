"""A classifier whose features are drawn as an image once for each class that they may be (C2AE)."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openset.networks.base import described
from openset.networks.dcgan import Generator
from openset.networks.heads.widened import Widened


class Redrawn(nn.Module):
    """How far images are from what a decoder draws of their features, told each class in turn.

    A class is told by l in {−1, 1}^K, 1 at the class: the decoder sees γ(l) ⊙ z + β(l), with γ and
    β linear. It is the generator of DCGAN, whose 32×32 pixels are brought to the image's size.

    Args:
        features: Number of features D.
        classes: Number of classes K.
        channels: Channels of the image.
        width: Maps of the layer before the decoder's last.
    """

    told: Tensor

    def __init__(self, features: int, classes: int, channels: int, width: int):
        super().__init__()
        self.scale, self.shift = nn.Linear(classes, features), nn.Linear(classes, features)
        self.decoder = Generator(channels, width, noise=features)
        self.register_buffer("told", 2 * torch.eye(classes) - 1, persistent=False)

    def draw(self, z: Tensor, classes: Tensor, size: Sequence[int]) -> Tensor:
        """Images `[N, C, *size]` in 0…1 of features `[N, D]`, each told its class `[N]`."""
        told = self.told[classes].to(z.dtype)
        return self.decoder.draw(self.scale(told) * z + self.shift(told), size)

    def forward(self, z: Tensor, image: Tensor) -> Tensor:
        """Mean absolute errors `[N, K]` of the images by the class that the decoder was told."""
        every = torch.zeros_like(z[:, 0], dtype=torch.long)
        drawn = (self.draw(z, every + k, image.shape[2:]) for k in range(len(self.told)))
        return torch.stack([(image - again).abs().mean((1, 2, 3)) for again in drawn], dim=1)


class Conditioned(nn.Module):
    """A classifier beside a decoder of its features; `errors` gives what a tap reads.

    The logits are the classifier's own, to the bit. Every call draws K images for each; training
    draws two.

    Args:
        network: As `Widened` takes it.
        channels: Channels of the image; None reads them from the network.
        width: As `Redrawn` takes it.
        head: As `Widened` takes it.
    """

    spec: dict[str, Any] | None = None

    def __init__(
        self,
        network: nn.Module,
        channels: int | None = None,
        width: int = 32,
        head: str | None = None,
    ):
        super().__init__()
        base = Widened(network, head)
        last = copy.deepcopy(network.get_submodule(base.place))
        self.errors = Redrawn(base.features, base.classes, channels or channels_of(network), width)
        self.classifier = nn.Sequential(OrderedDict(body=base.network, head=last))
        inside = (stage.removeprefix("network.") for stage in base.stages)
        self.stages = tuple(f"classifier.body.{stage}" for stage in inside)

    @property
    def normalize(self) -> nn.Module | None:
        """The inner network's normalisation, if it has one."""
        return getattr(self.classifier.get_submodule("body"), "normalize", None)

    def encode(self, image: Tensor) -> Tensor:
        """The features `[N, D]` that the head reads."""
        return self.classifier.get_submodule("body")(image)

    def forward(self, image: Tensor) -> Tensor:
        z = self.encode(image)
        self.errors(z, image)  # Not used here: a tap reads it.
        return self.classifier.get_submodule("head")(z)


def channels_of(network: nn.Module) -> int:
    """The channels of the images that a network takes, by its normalisation or its first layer."""
    mean = getattr(getattr(network, "normalize", None), "mean", None)
    if isinstance(mean, Tensor):
        return len(mean)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 1


@described
def conditioned(
    network: nn.Module, channels: int | None = None, width: int = 32, head: str | None = None
) -> Conditioned:
    """Puts a decoder beside a classifier that draws its features as an image of any class (C2AE).

    Oza & Patel, 2019, "C2AE: Class Conditioned Auto-Encoder for Open-set Recognition",
    https://arxiv.org/abs/1904.01198. A tap reads the error for each class as the layer `"errors"`.

    Args:
        network: From images to logits `[N, K]`, trained or not; this holds a copy.
        channels: Channels of the image; None reads them from the network.
        width: Maps of the layer before the decoder's last.
        head: Path of the last linear layer; None finds it.

    Example:
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> network, image = conditioned(inner, channels=1, width=4), torch.rand(5, 1, 4, 4)
        >>> network(image).shape, network.errors(network.encode(image), image).shape
        (torch.Size([5, 3]), torch.Size([5, 3]))
    """
    return Conditioned(network, channels, width, head)
