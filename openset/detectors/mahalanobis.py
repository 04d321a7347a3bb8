"""Distance to the nearest class mean under one covariance shared by all classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, choose_layers
from openset.extractors.base import Extractor
from openset.extractors.perturb import Perturb, step
from openset.extractors.tap import Tap
from openset.moments import Moments
from openset.spec import Amount


class Mahalanobis(Detector):
    """Scores an image by its features' squared Mahalanobis distance to the nearest class mean.

    Lee et al., 2018, https://arxiv.org/abs/1807.03888. Every feature is first divided by its own
    spread within the classes, so that layers of different scale can stand side by side; a feature
    that is constant on the training data is left out. One pass, constant memory.

    Args:
        layers: The layers to read, side by side; None for all stages, penultimate and logits.
        epsilon: Length of the input step that lowers the distance, in pixel units; 0 for none.
        shrinkage: Share of the identity mixed into the correlation matrix, 0…1.

    Example:
        >>> x = torch.randn(60, 4) + torch.arange(3).repeat(20)[:, None] * 5
        >>> batch = Activations(torch.zeros(60, 3), {"penultimate": x}, torch.arange(3).repeat(20))
        >>> Mahalanobis().fit([batch]).score(batch).shape
        torch.Size([60])
    """

    mean: Tensor
    centre: Tensor
    whitening: Tensor

    def __init__(
        self,
        layers: Sequence[str] | None = ("penultimate",),
        epsilon: float = 0.0,
        shrinkage: Amount = 1e-6,
    ):
        super().__init__()
        self.layers, self.epsilon, self.shrinkage = layers, step(epsilon), shrinkage

    def fit(self, batches: Iterable[Activations]) -> Self:
        self.found_layers = choose_layers(batches, self.layers)
        rows = Rows(batches, self.found_layers)
        self.learn(Moments.of(rows, rows.classes, "tied"))
        return self

    def learn(self, moments: Moments) -> None:
        """Keeps class means and whitening, from the tied moments of the training features."""
        mean = moments.mean[moments.count > 0]
        centre = mean.mean(0)
        whitening = whiten(moments.covariance(), centre, self.shrinkage)
        self.keep(
            mean=((mean - centre) @ whitening).float(),
            centre=centre.float(),
            whitening=whitening.float(),
        )

    def score(self, rows: Activations) -> Tensor:
        return self.distances(rows).min(1).values

    def read(self, rows: Activations) -> Tensor:
        """The features `[M, D]` whose distances count."""
        return rows.stacked(self.layers_read)

    def distances(self, rows: Activations) -> Tensor:
        """Squared distances `[M, K]` to the mean of every class that had rows."""
        x = self.read(rows)
        x = (x - self.centre.to(x.dtype)) @ self.whitening.to(x.dtype)
        return squared_distances(x, self.mean.to(x.dtype))

    @property
    def looks_again(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.epsilon > 0

    def view(self, tap: Tap) -> Extractor:
        return Perturb(tap, self, self.epsilon) if self.looks_again else tap


def whiten(covariance: Tensor, mean: Tensor, shrinkage: float) -> Tensor:
    """A map `[D, D]` under which the covariance is the identity, regularised in correlation.

    Constant features get a zero row. Directions without any spread left get none either, so that a
    rank-deficient covariance acts as its pseudo-inverse does.
    """
    variance = covariance.diagonal()
    # What is left of a constant after rounding is no spread; single precision has 7 digits.
    alive = variance > (1e-7 * mean).square()
    scale = torch.where(alive, variance, torch.inf).rsqrt()
    correlation = scale[:, None] * covariance * scale
    identity = torch.eye(len(variance)).to(correlation)
    values, vectors = torch.linalg.eigh((1 - shrinkage) * correlation + shrinkage * identity)
    keep = values > values.max() * len(values) * torch.finfo(torch.float64).eps
    inverse = torch.where(keep, values, torch.inf).rsqrt()
    return scale[:, None] * vectors * inverse


def squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distances of rows `[M, D]` to centres `[K, D]`, `[M, K]`."""
    # Centred first: |x|² − 2x·c + |c|² cancels badly where all points lie far from the origin.
    origin = centres.mean(0)
    x, centres = x - origin, centres - origin
    cross = x @ centres.T
    return (x.square().sum(1, keepdim=True) - 2 * cross + centres.square().sum(1)).clamp_min(0)
