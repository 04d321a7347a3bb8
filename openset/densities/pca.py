"""Probabilistic principal components: one Gaussian that is round but for a few directions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from openset.densities.base import Density, need_rows
from openset.moments import Moments
from openset.spec import Count


class PCA(Density):
    """Says how unlikely features are under a Gaussian with a few principal directions, in nats.

    Tipping & Bishop, "Probabilistic principal component analysis" (1999),
    https://doi.org/10.1111/1467-9868.00196. With principal axes V, their variances λ and the mean
    σ² of the other variances, the covariance is V diag(λ − σ²) Vᵀ + σ² I. A row d from the mean,
    its distance splits into Σ (vᵢᵀd)² / λᵢ along the axes and |d − V Vᵀ d|² / σ² beside them. The
    fit is in closed form from one pass over the rows; it holds a `[C, D, D]` scatter in float64.

    Variances divide by n − 1, as scikit-learn's. σ² is at least a millionth of the mean variance:
    rows of a lower rank than `components` get a finite, very steep density.

    Args:
        components: Principal directions per class, below the number of features.

    Example:
        >>> x = torch.randn(100, 1) * torch.tensor([3.0, 1.0, 0.0])
        >>> density = PCA(components=1).fit([x])
        >>> along, beside = density(torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 3.0]]))
        >>> bool(beside > along)
        True
    """

    mean: Tensor
    axes: Tensor
    variance: Tensor
    noise: Tensor

    def __init__(self, components: Count = 8):
        super().__init__()
        self.components = components

    def fit_classes(self, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Self:
        dtype = torch.float32

        def typed():
            nonlocal dtype
            for x, labels in batches:
                dtype = torch.promote_types(x.dtype, dtype)
                yield x, labels

        moments = Moments.of(typed(), classes)
        least = max(2, self.components)
        need_rows(moments.count, least, self, "give more images of it, or fewer components")
        dim = moments.mean.shape[1]
        if not 1 <= self.components < dim:
            raise ValueError(
                f"components must be below the {dim} features and at least 1; got {self.components}"
            )
        variance, axes = torch.linalg.eigh(moments.scatter / (moments.count - 1)[:, None, None])
        variance, axes = variance.flip(1).clamp_min(0), axes.flip(2)[..., : self.components]
        floor = 1e-6 * variance.mean(1).clamp_min(1e-12)
        noise = variance[:, self.components :].mean(1).maximum(floor)
        variance = variance[:, : self.components].maximum(noise[:, None])
        learned = {"mean": moments.mean, "axes": axes, "variance": variance, "noise": noise}
        self.keep(**{name: value.to(dtype) for name, value in learned.items()})
        return self

    @property
    def classes(self) -> int:
        return len(self.mean)

    def surprise(self, x: Tensor, c: int) -> Tensor:
        shift, axes = x.to(self.mean) - self.mean[c], self.axes[c]
        along = shift @ axes
        beside = (shift - along @ axes.T).square().sum(1)
        distance = (along.square() / self.variance[c]).sum(1) + beside / self.noise[c]
        others = shift.shape[1] - self.components
        log_det = self.variance[c].log().sum() + others * self.noise[c].log()
        return (distance + log_det + shift.shape[1] * math.log(2 * math.pi)) / 2
