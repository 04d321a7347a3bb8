"""A generator learns to draw images from the maps of their classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.spade import PatchDiscriminator, Spade, class_maps
from openset.objectives.base import Objective
from openset.objectives.synthetic_outliers import frozen
from openset.spec import Amount, Count


class Synthesis(Objective):
    """Trains a generator to draw known images again from nothing but where which class is.

    A discriminator D learns to tell patches of images from drawn ones, each beside its class maps
    m, and the generator G to deceive it and to draw what D's layers and the eye find alike:

        generator:      −mean D(m, G(m)) + w (mean |Dᵢ(m, x) − Dᵢ(m, G(m))| + mean |x − G(m)|)
        discriminator:  mean [1 − D(m, x)]₊ + mean [1 + D(m, G(m))]₊

    Published are four times as many maps, days of training and, in place of the last term, layers
    of a VGG that was trained on other images. Of whole images the map is their class everywhere,
    of which only a typical image can be drawn. The detector `synthcp` compares what is drawn with
    what is seen.

    Paper: Xia et al., *Synthesize then Compare: Detecting Failures and Anomalies for Semantic
    Segmentation*, 2020, https://arxiv.org/abs/2003.08440.

    Args:
        network: `spade`, from class maps `[N, K, H, W]` to images.
        weight: w, of likeness beside deceit.
        width: Maps of the discriminator's first layer.
        lr: Learning rate of the generator, by Adam; published are 1e-4 for 200 epochs. That of the
            discriminator is 4e-4.

    Example:
        >>> from openset.networks import spade
        >>> objective = Synthesis(spade(classes=3, width=4), width=4)
        >>> label = torch.randint(3, (2, 16, 24))
        >>> [who for who, _ in objective.step(torch.rand(2, 3, 16, 24), label)]
        ['network', 'discriminator']
    """

    classifies = False
    network: Spade  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self, network: nn.Module, weight: Amount = 10.0, width: Count = 16, lr: Amount = 1e-3
    ):
        super().__init__(network)
        if not isinstance(network, Spade):
            raise ValueError(
                f"synthesis trains a network that draws images from class maps; "
                f"{type(network).__name__} does not: take the network spade"
            )
        self.weight, self.width, self.lr = weight, width, lr
        self.discriminator = PatchDiscriminator(network.classes, network.channels, width)

    def learners(self) -> dict[str, nn.Module]:
        return {"network": self.network, "discriminator": self.discriminator}

    def options(self) -> dict[str, dict[str, Any]]:
        adam = {"optimizer": "adam", "momentum": 0.0, "weight_decay": 0.0, "encoder_lr_factor": 1.0}
        return {"network": {**adam, "lr": self.lr}, "discriminator": {**adam, "lr": 4e-4}}

    def logits(self, image: Tensor) -> Tensor:
        """What is drawn where no class is named, `[N, C, H, W]`: it has no class scores."""
        return self.network(image.new_zeros(len(image), self.network.classes, *image.shape[2:]))

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        maps = class_maps(label, self.network.classes, image.shape[2:])
        drawn = self.network(maps)
        with torch.no_grad():
            real = self.discriminator(maps, image)
        with frozen(self.discriminator, as_is=True):
            seen = self.discriminator(maps, drawn)
            likeness = gap(seen, real) + F.l1_loss(drawn.float(), image.float())
            yield "network", self.weight * likeness - mean_of([scale[-1] for scale in seen])
        real = [scale[-1] for scale in self.discriminator(maps, image)]
        fake = [scale[-1] for scale in self.discriminator(maps, drawn.detach())]
        wrong = [F.relu(1 - x) for x in real], [F.relu(1 + x) for x in fake]
        yield "discriminator", mean_of(wrong[0]) + mean_of(wrong[1])


def gap(one: list[list[Tensor]], other: list[list[Tensor]]) -> Tensor:
    """The mean distance |a − b| of what a discriminator's layers see, all but the logits."""
    pairs = [
        pair
        for scale in zip(one, other, strict=True)
        for pair in zip(*(layers[:-1] for layers in scale), strict=True)
    ]
    return mean_of([(a - b).abs() for a, b in pairs])


def mean_of(parts: list[Tensor]) -> Tensor:
    """The mean over tensors of their means, in single precision."""
    return torch.stack([x.float().mean() for x in parts]).mean()
