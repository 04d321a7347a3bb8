"""Counts, means and scatter per class from one pass, exact under any split of the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

import torch
from torch import Tensor, nn

Kind = Literal["full", "diag", "tied"]


class Moments(nn.Module):
    """Streaming per-class count, mean and scatter in float64.

    Chan, Golub & LeVeque's pairwise update (1983), https://doi.org/10.1080/00031305.1983.10483115:
    merging two parts gives what one pass over both would, so batches, shards and ranks can be
    combined in any order. Memory does not grow with the number of rows.

    Args:
        classes: Number of classes C.
        dim: Number of features D.
        kind: Scatter kept: "full" `[C, D, D]`, "diag" `[C, D]`, or "tied" `[D, D]`, the scatter
            around each row's own class mean summed over the classes.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [5.0]])
        >>> moments = Moments(2, 1, "diag").update(x, torch.tensor([0, 0, 1]))
        >>> moments.mean.flatten().tolist(), moments.covariance().flatten().tolist()
        ([1.0, 5.0], [1.0, 0.0])
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor

    def __init__(self, classes: int, dim: int, kind: Kind = "full"):
        super().__init__()
        shapes = {"full": (classes, dim, dim), "diag": (classes, dim), "tied": (dim, dim)}
        if kind not in shapes:
            raise ValueError(f"kind must be one of {', '.join(shapes)}; got {kind!r}")
        self.kind: Kind = kind
        self.register_buffer("count", torch.zeros(classes, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(classes, dim, dtype=torch.float64))
        self.register_buffer("scatter", torch.zeros(shapes[kind], dtype=torch.float64))

    def update(self, x: Tensor, labels: Tensor | None = None) -> Self:
        """Adds rows `[M, D]` with class labels `[M]`; rows with a negative label are left out.

        Without labels all rows belong to class 0.
        """
        labels = labels if labels is not None else torch.zeros(len(x), dtype=torch.long)
        labels = labels.to(x.device)
        for c in labels.unique().tolist():
            if c < 0:
                continue
            if c >= len(self.count):
                raise ValueError(f"label {c} is outside 0…{len(self.count) - 1}")
            part = x[labels == c].to(self.mean)
            mean = part.mean(0)
            centred = part - mean
            scatter = centred.square().sum(0) if self.kind == "diag" else centred.T @ centred
            self._add(c, len(part), mean, scatter)
        return self

    def _add(self, c: int, count: Tensor | int, mean: Tensor, scatter: Tensor | float) -> None:
        """Chan's rule for one class: the shift between the two means adds to the scatter."""
        total = self.count[c] + count
        shift = mean - self.mean[c]
        weight = self.count[c] * count / total
        between = shift.square() if self.kind == "diag" else torch.outer(shift, shift)
        target = self.scatter if self.kind == "tied" else self.scatter[c]
        target += scatter + weight * between
        self.mean[c] += shift * count / total
        self.count[c] = total

    def merge(self, other: Moments) -> Self:
        """Adds what another `Moments` of the same shape and kind has seen."""
        if self.kind != other.kind or self.mean.shape != other.mean.shape:
            raise ValueError(
                f"cannot merge {other.kind} moments of {tuple(other.mean.shape)} into "
                f"{self.kind} moments of {tuple(self.mean.shape)}; both must agree"
            )
        for c in other.count.nonzero().flatten().tolist():
            scatter = 0.0 if self.kind == "tied" else other.scatter[c]
            self._add(c, other.count[c], other.mean[c], scatter)
        if self.kind == "tied":
            self.scatter += other.scatter
        return self

    def covariance(self) -> Tensor:
        """Maximum-likelihood covariance, in the scatter's shape; zeros for a class without rows."""
        if self.kind == "tied":
            return self.scatter / self.count.sum().clamp_min(1)
        shape = (-1,) + (1,) * (self.scatter.dim() - 1)
        return self.scatter / self.count.clamp_min(1).view(shape)

    @classmethod
    def of(
        cls, batches: Iterable[tuple[Tensor, Tensor]], classes: int, kind: Kind = "full"
    ) -> Moments:
        """The moments of an iterable of (rows `[M, D]`, labels `[M]`)."""
        moments: Moments | None = None
        for x, labels in batches:
            if moments is None:
                moments = cls(classes, x.shape[1], kind).to(x.device)
            moments.update(x, labels)
        if moments is None:
            raise ValueError("no rows: the data set or the loader gave no batch")
        return moments
