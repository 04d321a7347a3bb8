"""Points that stand for everything but a class: RPL, ARPL, and ARPL with confusing samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.heads.reciprocal import Reciprocal, reciprocal
from openset.objectives.base import Objective
from openset.objectives.gan_outliers import GANOutliers

Variant = Literal["paper", "published"]


class RPL(Objective):
    """Trains a classifier by reciprocal points, with each image at about a learned distance.

    The loss is CE(γ d_e) + λ · mean (d_e(f, P^y) − R^y)², with d_e(f, P) = |f − P|² / D. Images far
    from the points of all classes but their own are known, so `max-logit` is the score.

    Paper: Chen et al., *Learning Open Set Network with Discriminative Reciprocal Points*, 2020,
    https://arxiv.org/abs/2011.00178.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]`, trained or not; a copy of it
            gets the points.
        weight: λ, the weight of the bound.
        gamma: γ, by which distances are multiplied in training. The published settings are 1 and
            0.5, for Adam at a high rate over hundreds of epochs; SGD learns nothing from them in a
            few, as d_e is a mean over D.
        dim: D, the size of the linear map before the points.

    Example:
        >>> objective = RPL(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), dim=8)
        >>> objective.logits(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """

    network: Reciprocal  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self, network: nn.Module, weight: float = 0.1, gamma: float = 32.0, dim: int = 128
    ):
        super().__init__(reciprocal(network, adversarial=False, dim=dim))
        self.weight, self.gamma, self.dim = weight, gamma, dim

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        features = self.network.embed(image).float()
        distance = self.network.points.distances(features)
        own = distance.gather(1, label[:, None]).squeeze(1)
        bound = (own - self.network.radius[label]).square().mean()
        yield "network", F.cross_entropy(self.gamma * distance, label) + self.weight * bound


class ARPL(Objective):
    """Trains a classifier by reciprocal points, with all images within a learned distance of them.

    The loss is CE(d_e − f·P) + λ · mean [d_e(f, P^y) − R^y]₊, with d_e(f, P) = |f − P|² / D. So the
    known lie round the rim of a bounded space and the unknown near its middle, where no class is
    far: `max-logit` is the score.

    Paper: Chen et al., *Adversarial Reciprocal Points Learning for Open Set Recognition*, 2021,
    https://arxiv.org/abs/2103.00953.

    `variant="published"` has [1 + d_e − R]₊ with one R for all classes, as the authors' code. Its
    only gradient on R is upwards, so the bound loosens until it does nothing.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]`, trained or not; a copy of it
            gets the points.
        weight: λ, the weight of the bound.
        variant: "paper" or "published".
        dim: D, the size of the linear map before the points.

    Example:
        >>> objective = ARPL(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), dim=8)
        >>> objective.logits(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """

    network: Reciprocal  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        network: nn.Module,
        weight: float = 0.1,
        variant: Variant = "paper",
        dim: int = 128,
    ):
        if variant not in get_args(Variant):
            raise ValueError(f"variant must be 'paper' or 'published'; got {variant!r}")
        super().__init__(reciprocal(network, dim=dim, shared=variant == "published"))
        self.variant: Variant = variant
        self.weight, self.dim = weight, dim

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        features = self.network.embed(image).float()
        yield "network", bounded(self.network, features, label, self.weight)


class ARPLCS(GANOutliers):
    """Trains as `ARPL` does, beside a GAN whose samples are to lie equally far from all points.

    In turn, the discriminator learns to tell images from samples; the generator to deceive it and
    to confuse the classifier; and the classifier the known classes, and to be confused by fresh
    samples. Confusion is −exp(−H), with H the entropy of softmax(d_e) in nats:

        generator:   −log D(G(z)) + β exp(−H(G(z)))
        classifier:  the loss of `ARPL` + β exp(−H(G(z')))

    Images and samples pass the classifier as one batch; the published code keeps two sets of
    batch-norm statistics.

    Paper: Chen et al., *Adversarial Reciprocal Points Learning for Open Set Recognition*, 2021,
    §3.4, https://arxiv.org/abs/2103.00953.

    Args:
        network: As for `ARPL`.
        weight: β, the weight of confusion.
        bound_weight: λ, the weight of the bound.
        dim: D, the size of the linear map before the points.
        count: Samples per batch; None draws one for each image.
        width: Maps of the discriminator's first layer.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 28), nn.Flatten(), nn.Linear(3, 3))
        >>> objective = ARPLCS(network, width=4)
        >>> [who for who, _ in objective.step(torch.rand(2, 1, 28, 28), torch.tensor([0, 2]))]
        ['discriminator', 'generator', 'network']
    """

    name = "arpl-cs"
    network: Reciprocal  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        network: nn.Module,
        weight: float = 0.1,
        bound_weight: float = 0.1,
        dim: int = 128,
        count: int | None = None,
        width: int = 128,
    ):
        super().__init__(reciprocal(network, dim=dim), weight, count, width)
        self.bound_weight, self.dim = bound_weight, dim

    def sureness(self, image: Tensor) -> Tensor:
        return sureness(self.network, self.network.embed(image).float())

    def learn(self, image: Tensor, label: Tensor) -> Tensor:
        features = self.network.embed(image).float()
        return bounded(self.network, features, label, self.bound_weight)

    def classify(
        self, image: Tensor, label: Tensor, outliers: Tensor, place: object = None
    ) -> tuple[Tensor, Tensor]:
        self._note_shape(image, None)
        features = self.network.embed(torch.cat([image, outliers.to(image.dtype)])).float()
        known, unknown = features[: len(image)], features[len(image) :]
        loss = bounded(self.network, known, label, self.bound_weight)
        return loss, sureness(self.network, unknown)


def bounded(network: Reciprocal, features: Tensor, label: Tensor, weight: float) -> Tensor:
    """ARPL's loss of embedded images `[N, D]`: cross-entropy, and the bound times λ."""
    own = network.points.distances(features).gather(1, label[:, None]).squeeze(1)
    margin = 1.0 if network.shared else 0.0
    excess = F.relu(margin + own - network.radius[label])
    return F.cross_entropy(network.points(features), label) + weight * excess.mean()


def sureness(network: Reciprocal, features: Tensor) -> Tensor:
    """Mean exp(−H) of embedded samples `[N, D]`: 1 / K where confused, 1 where one is sure."""
    log_p = network.points.distances(features).log_softmax(1)
    return (log_p.exp() * log_p).sum(1).exp().mean()
