"""VMDLS: a latent space of small Gaussians, far from each other and from the origin."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.moments import Moments
from openset.networks.latent import Latent, latent
from openset.networks.watch import evaluating
from openset.objectives.base import Objective

RAMP_START = 0.15
"""Pushing margin M_d at which the published code starts."""


class VMDLS(Objective):
    """Trains a network so that each class is a small Gaussian and the space between is empty.

    L = kl_weight · KL(N(μ, σ²) ‖ N(m(y), s²I)) + the mean over the batch's triplets of
    [M_t + |a−p|² − |a−n|²]₊ + [M_d − |a−n|²]₊ on samples z = μ + σ⊙ε. m(y) is the mean of z over
    class y in the previous epoch; there is no KL in the first. KL is in nats, summed over the
    latent dimensions.

    Dinari & Freifeld 2022, "Variational- and Metric-based Deep Latent Space for Out-of-Distribution
    Detection", https://proceedings.mlr.press/v180/dinari22a.html

    `variant="published"` is what the authors' code does instead: distances are not squared and on
    z / |z|, only triplets with a loss count in the mean, KL is a mean over the latent dimensions
    times 0.1, s² = 0.01, and the pushing margin grows by about 1 an epoch. As such distances are at
    most 2, that margin is never reached.

    `deterministic=True` takes μ in place of samples for the metric loss and the targets; the paper
    says that this "in most cases led to unstable optimization and poor results", with no figure.
    KL still draws μ to its class's target; `kl_weight=0` leaves a plain metric loss.

    The gradient is clipped at length 1, whatever `clip_norm` says: squared distances begin far
    below M_d, and SGD at a usual rate would leave for infinity.

    On photographs the KL term is most of that gradient and the classes part slowly (CIFAR-10: 26 %
    right after 15 epochs); `kl_weight=0.1 / d` with `margin_ramp=5`, as in the published code, has
    70 % there.

    Args:
        network: A classifier, trained or not, whose last linear map is replaced by a latent space
            in place; or a `Latent`.
        size: Dimensions d of the latent space.
        variant: "paper" or "published".
        kl_weight: Weight of the KL term. None takes 1, as the equations have it, or 0.1 / d for the
            published variant.
        margin_triplet: Triplet margin M_t.
        margin_push: Pushing margin M_d; None takes d.
        margin_ramp: Epochs (or parts of one) over which M_d grows from 0.15; None takes none, or
            M_d epochs for the published variant.
        variance: s²; None takes 0.1, or 0.01 for the published variant.
        classes_per_batch: Classes B_C in each batch, at least 2.
        images_per_class: Images B_N of each class in a batch.
        freeze_epochs: Epochs in which only the two heads learn, for a network that is trained.
        deterministic: Take z = μ, without noise.

    Example:
        >>> from openset.networks.base import Backbone, pooled_neck
        >>> backbone = Backbone(1, nn.Identity(), [nn.Conv2d(1, 8, 3)], pooled_neck(),
        ...                     nn.Linear(8, 3))
        >>> objective = VMDLS(backbone, size=2)
        >>> [(name, loss)] = objective.step(torch.rand(6, 1, 8, 8), torch.arange(3).repeat(2))
        >>> name, loss.shape
        ('network', torch.Size([]))
    """

    name = "vmdls"
    network: Latent  # pyright: ignore[reportIncompatibleVariableOverride]
    targets: Tensor
    ready: Tensor
    totals: Tensor
    counts: Tensor
    progress: Tensor

    def __init__(
        self,
        network: nn.Module,
        size: int = 32,
        variant: Literal["paper", "published"] = "paper",
        kl_weight: float | None = None,
        margin_triplet: float = 0.1,
        margin_push: float | None = None,
        margin_ramp: float | None = None,
        variance: float | None = None,
        classes_per_batch: int = 10,
        images_per_class: int = 16,
        freeze_epochs: int = 0,
        deterministic: bool = False,
    ):
        if variant not in ("paper", "published"):
            raise ValueError(f"variant must be 'paper' or 'published'; got {variant!r}")
        published = variant == "published"
        s2 = (0.01 if published else 0.1) if variance is None else variance
        super().__init__(network if isinstance(network, Latent) else latent(network, size, s2))
        self.size = self.network.size
        self.variant: Literal["paper", "published"] = variant
        self.variance = self.network.variance
        own_weight = 0.1 / self.size if published else 1.0
        self.kl_weight = own_weight if kl_weight is None else kl_weight
        self.margin_triplet = margin_triplet
        self.margin_push = float(self.size) if margin_push is None else margin_push
        own_ramp = self.margin_push if published else 0.0
        self.margin_ramp = own_ramp if margin_ramp is None else margin_ramp
        self.classes_per_batch, self.images_per_class = classes_per_batch, images_per_class
        self.freeze_epochs, self.deterministic = freeze_epochs, deterministic
        self._share = 0.0
        classes = len(self.network.centres)
        self.register_buffer("targets", torch.zeros(classes, self.size))
        self.register_buffer("ready", torch.zeros(classes, dtype=torch.bool))
        self.register_buffer("totals", torch.zeros(classes, self.size))
        self.register_buffer("counts", torch.zeros(classes))
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))

    def options(self) -> dict[str, dict[str, Any]]:
        return {"network": {"clip_norm": 1.0}}

    def order(
        self, labels: Tensor, batch_size: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yields batches of `classes_per_batch` × `images_per_class`; `batch_size` is not used."""
        batches = balanced(labels, self.classes_per_batch, self.images_per_class, generator)
        self._share = 1 / len(batches)
        yield from batches

    def start_epoch(self, epoch: int) -> None:
        """The class means of the epoch that ended become the targets of this one."""
        self.targets.copy_(self._means(self.targets))
        self.ready |= self.counts > 0
        self.totals.zero_()
        self.counts.zero_()
        self.progress.fill_(epoch)

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        mean, log_variance = self._encode(image)
        z = mean
        if not self.deterministic:
            z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        self._count(z.detach(), label)
        divergence = gaussian_kl(mean, log_variance, self.targets[label], self.variance)
        loss = self.metric(z, label) + self.kl_weight * (divergence * self.ready[label]).mean()
        self.progress += self._share
        yield "network", loss

    def _encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ²; while the backbone is frozen, only the heads get gradients."""
        backbone, frozen = self.network.network, float(self.progress) < self.freeze_epochs
        if frozen:
            with torch.no_grad(), evaluating(backbone):
                features = backbone(image)
        else:
            features = backbone(image)
        # Distances between samples lose too much in half precision.
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.targets.dtype)
            return self.network.mean(features), self.network.log_variance(features)

    def _count(self, z: Tensor, label: Tensor) -> None:
        """Adds the batch to the class means; the network classifies by those of this epoch."""
        self.totals.index_add_(0, label, z)
        self.counts.index_add_(0, label, torch.ones_like(z[:, 0]))
        self.network.centres.copy_(self._means(self.network.centres))

    def _means(self, otherwise: Tensor) -> Tensor:
        """This epoch's class means of z so far; `otherwise` where a class was not yet seen."""
        counts = self.counts[:, None]
        return torch.where(counts > 0, self.totals / counts.clamp_min(1), otherwise)

    def margin(self) -> float:
        """The pushing margin M_d at this point of the training."""
        done = min(1.0, float(self.progress) / self.margin_ramp) if self.margin_ramp else 1.0
        start = min(RAMP_START, self.margin_push)
        return start + (self.margin_push - start) * done

    def metric(self, z: Tensor, label: Tensor) -> Tensor:
        """The metric loss of samples `[B, d]`, eq. 2–4 and 7: the mean over all triplets."""
        if self.variant == "paper":
            distance = squared_distances(z)
            return triplet_loss(distance, label, self.margin_triplet, self.margin())
        distance = squared_distances(F.normalize(z)).clamp_min(1e-12).sqrt()
        return triplet_loss(distance, label, self.margin_triplet, self.margin(), nonzero=True)

    def finish(self, batches: Iterable[tuple[Tensor, Tensor]]) -> nn.Module:
        """Sets the centres to the class means of μ over the training data."""
        centres = self.network.centres
        moments = Moments(len(centres), self.size, "diag").to(centres.device)
        with torch.no_grad(), evaluating(self.network):
            for image, label in batches:
                moments.update(self.network.encode(image)[0], label)
        # A class without images keeps its centre.
        centres.copy_(torch.where(moments.count[:, None] > 0, moments.mean.to(centres), centres))
        return self.network


def gaussian_kl(mean: Tensor, log_variance: Tensor, target: Tensor, variance: float) -> Tensor:
    """KL(N(μ, diag σ²) ‖ N(m, s²I)) in nats per row, `[B, d]` → `[B]` (eq. 6, negated)."""
    spread = log_variance.exp() + (mean - target).square()
    return (math.log(variance) - log_variance + spread / variance - 1).sum(1) / 2


def squared_distances(z: Tensor) -> Tensor:
    """All pairs of rows, `[B, d]` → `[B, B]`; by differences, as |a|² + |b|² − 2ab cancels."""
    return (z[:, None] - z).square().sum(2)


def triplet_loss(
    distance: Tensor,
    label: Tensor,
    margin_triplet: float,
    margin_push: float,
    nonzero: bool = False,
) -> Tensor:
    """Mean over all triplets (a, p, n) of [M_t + d_ap − d_an]₊ + [M_d − d_an]₊.

    The mean is per anchor, then over the anchors that have triplets (eq. 7). Memory is
    B × most positives × most negatives of an anchor.

    Args:
        distance: `[B, B]`.
        label: `[B]`.
        margin_triplet: M_t.
        margin_push: M_d.
        nonzero: Take the mean over the triplets of the batch whose loss is not zero instead.
    """
    same = label[:, None] == label
    itself = torch.eye(len(label), dtype=torch.bool, device=label.device)
    near, is_near = pack(distance, same & ~itself)
    far, is_far = pack(distance, ~same)
    loss = F.relu(margin_triplet + near[:, :, None] - far[:, None])
    loss = loss + F.relu(margin_push - far)[:, None]
    loss = loss * (is_near[:, :, None] & is_far[:, None])
    if nonzero:
        return loss.sum() / (loss > 0).sum().clamp_min(1)
    triplets = is_near.sum(1) * is_far.sum(1)
    return (loss.sum((1, 2)) / triplets.clamp_min(1)).sum() / (triplets > 0).sum().clamp_min(1)


def pack(x: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Moves the chosen entries of each row `[B, B]` to its front and cuts off what no row needs.

    Returns:
        The entries `[B, W]`, and which of them were chosen.
    """
    width = int(chosen.sum(1).max())
    columns = chosen.byte().argsort(dim=1, descending=True, stable=True)[:, :width]
    return x.gather(1, columns), chosen.gather(1, columns)


def balanced(
    labels: Tensor, classes_per_batch: int, images_per_class: int, generator: torch.Generator
) -> Tensor:
    """Indices of one epoch's batches `[batches, classes · images]`, each class's side by side.

    Every batch draws its classes at random; a class's images come in random order and again from
    the start once all were drawn. There are as many batches as cover the number of images.
    """
    classes = labels[labels >= 0].unique()
    per_batch = min(classes_per_batch, len(classes))
    if per_batch < 2:
        raise ValueError(
            f"triplets need at least 2 classes in a batch; got classes_per_batch="
            f"{classes_per_batch} and {len(classes)} classes in the data"
        )
    steps = math.ceil(int((labels >= 0).sum()) / (per_batch * images_per_class))
    drawn = torch.rand(steps, len(classes), generator=generator).argsort(1)[:, :per_batch]
    batches = torch.empty(steps, per_batch, images_per_class, dtype=torch.long)
    for c, label in enumerate(classes.tolist()):
        turns = drawn == c
        own = (labels == label).nonzero().flatten().cpu()
        need = int(turns.sum()) * images_per_class
        rounds = [
            torch.randperm(len(own), generator=generator) for _ in range(-(-need // len(own)))
        ]
        if rounds:
            batches[turns] = own[torch.cat(rounds)[:need]].view(-1, images_per_class)
    return batches.flatten(1)
