"""Features on one scale, so that what follows treats logits and pooled maps alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from openset.fitted import Fitted
from openset.moments import Moments


class Standardise(Fitted):
    """Gives each feature mean 0 and deviation 1 over the training rows, then keeps principal axes.

    A feature that never varies takes the scale of the average feature.

    Args:
        reduce: How many principal components of the standardised features to keep; None for all
            features as they are.

    Example:
        >>> x = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
        >>> Standardise().fit([(x, torch.zeros(2, dtype=torch.long))])(x)
        tensor([[-1.,  0.],
                [ 1.,  0.]])
    """

    centre: Tensor
    scale: Tensor
    axes: Tensor

    def __init__(self, reduce: int | None = None):
        super().__init__()
        self.reduce = reduce

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Self:
        """Learns from (rows `[M, D]`, labels `[M]`) in one pass; negative labels are left out."""
        dtype = torch.float32

        def one_class():
            nonlocal dtype
            for x, labels in batches:
                dtype = torch.promote_types(x.dtype, dtype)
                yield x, labels.clamp_max(0)

        moments = Moments.of(one_class(), 1, "full" if self.reduce else "diag")
        covariance, centre = moments.covariance()[0], moments.mean[0]
        variance = covariance.diagonal() if self.reduce else covariance
        varies = variance > (1e-6 * centre).square()
        usual = variance[varies].mean() if bool(varies.any()) else torch.ones(()).to(variance)
        scale = torch.where(varies, variance, usual).sqrt()
        self.keep(centre=centre.to(dtype), scale=scale.to(dtype))
        if self.reduce:
            if not 1 <= self.reduce <= len(scale):
                raise ValueError(f"reduce must be in 1…{len(scale)} features; got {self.reduce}")
            axes = torch.linalg.eigh(covariance / torch.outer(scale, scale)).eigenvectors
            self.keep(axes=axes.flip(1)[:, : self.reduce].to(dtype))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Rows `[M, D]` to `[M, D]`, or `[M, reduce]`."""
        x = (x.to(self.centre) - self.centre) / self.scale
        return x @ self.axes if self.reduce else x

    @property
    def volume(self) -> Tensor:
        """Nats to add to a surprise to have it in the original units; 0 for a projection."""
        log_scale = self.scale.log().sum()
        return torch.zeros_like(log_scale) if self.reduce else log_scale
