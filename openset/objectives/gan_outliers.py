"""Trains a classifier beside a GAN that draws outliers at the border of the known images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.dcgan import Discriminator, Generator
from openset.networks.watch import evaluating
from openset.objectives.cross_entropy import labelled_cross_entropy
from openset.objectives.patches import SIDES, Patches
from openset.objectives.synthetic_outliers import (
    SyntheticOutliers,
    frozen,
    image_channels,
    outlier_shape,
    pasted_losses,
    uniform_divergence,
)
from openset.spec import Range

ADAM = {
    "optimizer": "adam",
    "lr": 2e-4,
    "momentum": 0.5,
    "weight_decay": 0.0,
    "encoder_lr_factor": 1.0,
}
"""How both sides of a GAN learn."""

LEARNING = 2
"""Epochs in which the discriminator learns what the images are, before it is asked that."""


class GANOutliers(SyntheticOutliers):
    """Trains a classifier and a GAN together; the generator draws the outliers.

    In turn, the discriminator learns to tell images from samples; the generator to deceive it and
    to draw what the classifier is unsure of; and the classifier the known classes, and to have no
    opinion on fresh samples. Where pixels are labelled, a sample is pasted into each image, and the
    images of the discriminator are the parts that it replaces:

        generator:   −log D(G(z)) + β KL(U ‖ p(y | G(z)))
        classifier:  CE(x, y) + β KL(U ‖ p(y | G(z')))

    A generator whose samples the discriminator tells at once draws nothing near the images; on few
    images it never does. So the classifier trains by cross-entropy alone until, from the third
    epoch on, 5 % of an epoch's samples passed for real. The log has that share as `deceived`, and
    `outliers`, whether the epoch was trained with them. (The paper shows them from the start, as
    `deceived=0` does.)

    Paper: Lee et al., "Training Confidence-calibrated Classifiers for Detecting
    Out-of-Distribution Samples", 2018, https://arxiv.org/abs/1711.09325

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]` or `[N, K, H, W]`.
        weight: β, the weight of KL(U ‖ p); 0.1 for CIFAR-10 in the paper's code.
        count: Outliers per batch of whole images; None draws one for each image.
        width: Maps of the discriminator's first layer.
        sides: Smallest and largest side of a pasted sample, as shares of the image's shorter side.
        deceived: Share of an epoch's samples that must pass for real before they are outliers; 0
            takes them from the start.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 28), nn.Flatten())
        >>> objective = GANOutliers(network, width=4)
        >>> [who for who, _ in objective.step(torch.rand(2, 1, 28, 28), torch.tensor([0, 2]))]
        ['discriminator', 'generator', 'network']
    """

    name = "gan-outliers"
    drawing: Tensor
    sums: Tensor

    def __init__(
        self,
        network: nn.Module,
        weight: float = 0.1,
        count: int | None = None,
        width: int = 128,
        sides: Sequence[float] = SIDES,
        deceived: Annotated[float, Range(least=0, most=1)] = 0.05,
    ):
        super().__init__(network, weight, count, sides)
        self.width, self.deceived = width, deceived
        self.generator = Generator(image_channels(network), width)
        self.discriminator = Discriminator(image_channels(network), width)
        self.keep(drawing=torch.tensor(True), sums=torch.zeros(2))

    def learners(self) -> dict[str, nn.Module]:
        return {
            "network": self.network,
            "generator": self.generator,
            "discriminator": self.discriminator,
        }

    def options(self) -> dict[str, dict[str, Any]]:
        return {"generator": ADAM, "discriminator": ADAM}

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        passed = self.figures().get("deceived", 0)
        learned = epoch >= LEARNING and passed >= self.deceived
        self.drawing.fill_(learned or not self.deceived)
        self.sums.zero_()

    def figures(self) -> dict[str, float]:
        passed, steps = self.sums.tolist()
        return {"deceived": passed / steps, "outliers": float(self.drawing)} if steps else {}

    def draw(self, n: int, size: tuple[int, int], generator: torch.Generator | None) -> Tensor:
        with evaluating(self.generator):
            return self.generator.sample(n, size, generator)

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        place = self.place(image, label)
        self._note_shape(image, place)
        real = image if place is None else place.cut(image)
        n, size = outlier_shape(self.count, image, place)
        drawn = self.generator.sample(n, size)
        told = self.discriminator(drawn.detach()).float()
        passed = (told.detach() > 0).float().mean()
        self.sums += torch.stack([passed, torch.ones_like(passed)])
        yield "discriminator", doubt(self.discriminator(real), 1) + doubt(told, 0)

        # The discriminator answers as it learned to, with the batch's own statistics; in evaluation
        # mode it would be far less sure that the samples are drawn.
        with frozen(self.network), frozen(self.discriminator, as_is=True):
            divergence = self._divergence(drawn, image, label, place)
            wanted = doubt(self.discriminator(drawn), 1)
            yield "generator", wanted + self.strength(place) * divergence

        if not self.drawing:
            yield "network", self.learn(image, label)
            return
        with torch.no_grad():
            fresh = self.generator.sample(n, size)
        cross_entropy, divergence = self.classify(image, label, fresh, place)
        yield "network", cross_entropy + self.strength(place) * divergence

    def learn(self, image: Tensor, label: Tensor) -> Tensor:
        """The classifier's loss on known images alone."""
        return labelled_cross_entropy(self.logits(image), label)

    def sureness(self, image: Tensor) -> Tensor:
        """How sure the classifier is of samples, which the generator is to lower."""
        return uniform_divergence(self.logits(image)).mean()

    def _divergence(
        self, drawn: Tensor, image: Tensor, label: Tensor, place: Patches | None
    ) -> Tensor:
        """KL(U ‖ p) of the samples alone, or where they are pasted into the images."""
        if place is None:
            return self.sureness(drawn)
        return pasted_losses(self.logits(place.paste(image, drawn)), place.mark(label))[1]


def doubt(logit: Tensor, real: int) -> Tensor:
    """Cross-entropy of a discriminator's answers `[N]` with all real (1) or all drawn (0)."""
    return F.binary_cross_entropy_with_logits(logit.float(), torch.full_like(logit, real).float())
