"""Counts, means and scatter per class from one pass, exact under any split of the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

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
        classes = len(self.count)
        # Sorted on the CPU: a device is waited for once a batch, and not once a class.
        groups = torch.zeros(len(x), dtype=torch.long) if labels is None else labels.cpu()
        groups = groups.clamp_min(-1)
        without, *sizes = torch.bincount(groups + 1, minlength=classes + 1).tolist()
        if len(sizes) > classes:
            raise ValueError(f"label {len(sizes) - 1} is outside 0…{classes - 1}")
        order = groups.argsort(stable=True)[without:]
        rows, which = x[order.to(x.device)].to(self.mean), groups[order].to(self.mean.device)
        count = torch.tensor(sizes).to(self.count)
        mean = torch.zeros_like(self.mean).index_add_(0, which, rows)
        mean /= count.clamp_min(1)[:, None]
        rows -= mean[which]
        if self.kind == "tied":
            scatter = rows.T @ rows
        elif self.kind == "diag":
            scatter = torch.zeros_like(self.mean).index_add_(0, which, rows.square_())
        else:
            scatter = [part.T @ part if len(part) else None for part in rows.split(sizes)]
        self._add(count, mean, scatter, [c for c, size in enumerate(sizes) if size])
        return self

    def _add(self, count: Tensor, mean: Tensor, scatter: Any, present: list[int]) -> None:
        """Chan's rule: the shift between two means of a class adds to the scatter.

        Args:
            count: Rows of each class `[C]` in what is added.
            mean: Their means `[C, D]`.
            scatter: Their scatter, in the shape of this one's, or `[D, D]` for each class.
            present: The classes that have rows.
        """
        total = self.count + count
        share = (count / total.clamp_min(1))[:, None]
        shift = mean - self.mean
        between = self.count[:, None] * share * shift
        if self.kind == "full":
            for c in present:
                self.scatter[c] += scatter[c] + torch.outer(between[c], shift[c])
        else:
            self.scatter += scatter
            self.scatter += between * shift if self.kind == "diag" else between.T @ shift
        self.mean += share * shift
        self.count.copy_(total)

    def merge(self, other: Moments) -> Self:
        """Adds what another `Moments` of the same shape and kind has seen."""
        if self.kind != other.kind or self.mean.shape != other.mean.shape:
            raise ValueError(
                f"cannot merge {other.kind} moments of {tuple(other.mean.shape)} into "
                f"{self.kind} moments of {tuple(self.mean.shape)}; both must agree"
            )
        self._add(other.count, other.mean, other.scatter, other.count.nonzero().flatten().tolist())
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
