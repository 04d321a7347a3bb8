"""Mixtures of Gaussians of many classes by EM, as one tensor program over padded rows.

Dempster, Laird & Rubin, "Maximum likelihood from incomplete data via the EM algorithm" (1977),
https://doi.org/10.1111/j.2517-6161.1977.tb01600.x. Everything a pass must remember is a sum over
rows, so rows may come in any pieces: whole classes from memory, or batches from a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from openset.densities.k_means import nearest
from openset.densities.mixtures import Mixtures, Piece, blocks

Covariance = Literal["full", "diag", "tied"]


NEGLIGIBLE = 1e-10
"""A responsibility below this adds nothing to a sum over rows, and its row is skipped."""


class Sums:
    """Sums over the rows of one pass, in float64: Σ r, Σ r x, Σ r x xᵀ per class and component."""

    def __init__(self, classes: int, components: int, dim: int, covariance: Covariance, device):
        shape = {"full": (components, dim, dim), "diag": (components, dim), "tied": (1, dim, dim)}
        zeros = {"dtype": torch.float64, "device": device}
        self.count = torch.zeros(classes, components, **zeros)
        self.first = torch.zeros(classes, components, dim, **zeros)
        self.second = torch.zeros(classes, *shape[covariance], **zeros)
        self.likelihood = torch.zeros(classes, **zeros)
        self.covariance: Covariance = covariance

    def add(self, piece: Piece, share: Tensor, likelihood: Tensor) -> None:
        """Adds rows by their responsibilities `[B, n, K]`."""
        share = share.double()
        self.likelihood.index_add_(0, piece.which, likelihood)
        self.count.index_add_(0, piece.which, share.sum(1))
        if self.covariance == "diag":
            rows = piece.rows.double()
            self.first.index_add_(0, piece.which, share.mT @ rows)
            self.second.index_add_(0, piece.which, share.mT @ rows.square())
            return
        for b, c in enumerate(piece.which.tolist()):
            if self.covariance == "tied":
                rows = piece.rows[b][piece.mask[b]].double()
                self.first[c] += share[b][piece.mask[b]].T @ rows
                self.second[c, 0] += rows.T @ rows
                continue
            for k in range(share.shape[2]):
                self._add_component(c, k, piece.rows[b], share[b, :, k])

    def _add_component(self, c: int, k: int, rows: Tensor, share: Tensor) -> None:
        # With many features nearly every row belongs to one component: the others skip it.
        chosen = share > NEGLIGIBLE
        rows, share = rows[chosen].double(), share[chosen, None]
        weighted = rows * share
        self.first[c, k] += weighted.sum(0)
        # Symmetric, and read by its lower triangle alone: the blocks above it are left out.
        for low, high in blocks(rows.shape[1]):
            self.second[c, k, low:high, :high] += weighted[:, low:high].T @ rows[:, :high]

    def maximise(self, keep: Tensor, shrinkage: float, jitter: float, names: Tensor) -> Mixtures:
        """The M step for the classes at indices `keep`, with shrunk covariances."""
        count, first, second = self.count[keep], self.first[keep], self.second[keep]
        rows = count.sum(1, keepdim=True)
        mean = first / count.clamp_min(NEGLIGIBLE)[..., None]
        spread = self._class_variance(rows, first, second) * shrinkage + jitter
        if self.covariance == "diag":
            own = (second / count.clamp_min(NEGLIGIBLE)[..., None] - mean.square()).clamp_min(0)
            variance = (1 - shrinkage) * own + spread[:, None, None]
            _refuse_singular(variance.amin((1, 2)), names[keep])
            return Mixtures((count / rows).log(), mean, variance.rsqrt())
        covariance = self._scatter(count, mean, second, 1 - shrinkage)
        covariance.diagonal(dim1=-2, dim2=-1).add_(spread[:, None, None])
        lower, failed = torch.linalg.cholesky_ex(covariance)
        pivot = lower.diagonal(dim1=-2, dim2=-1).square().amin(-1).masked_fill(failed > 0, 0.0)
        _refuse_singular(pivot.amin(1), names[keep])
        eye = torch.eye(mean.shape[-1]).to(lower)
        factor = torch.linalg.solve_triangular(lower, eye, upper=False).mT
        return Mixtures((count / rows).log(), mean, factor)

    def _scatter(self, count: Tensor, mean: Tensor, second: Tensor, share: float) -> Tensor:
        """Covariance around the component means times a share, in place, `[B, K or 1, D, D]`."""
        if self.covariance == "full":
            # Each walk through so many values takes as long as its part of the products.
            second.mul_(share / count.clamp_min(NEGLIGIBLE)[..., None, None])
            column = mean.flatten(0, 1)[..., None]
            second.view(-1, *second.shape[2:]).baddbmm_(column, column.mT, alpha=-share)
            return second
        between = (mean * count[..., None]).mT @ mean
        return (second - between[:, None]).mul_(share / count.sum(1)[:, None, None, None])

    def _class_variance(self, rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Variance of a class's whole set of rows, averaged over features, `[B]`."""
        diagonal = second if self.covariance == "diag" else second.diagonal(dim1=-2, dim2=-1)
        variance = diagonal.sum(1) / rows - (first.sum(1) / rows).square()
        return variance.mean(1).clamp_min(0)


def _refuse_singular(pivot: Tensor, names: Tensor) -> None:
    singular = names[(pivot <= 1e-12).nonzero().flatten().to(names.device)].tolist()
    if singular:
        raise ValueError(
            f"the covariance of class {', '.join(map(str, singular))} is singular: features are "
            "constant or collinear, or a component has fewer rows than features; "
            "give shrinkage or jitter above 0, or reduce"
        )


def fit_mixtures(
    pieces: Iterable[Piece],
    start: Tensor,
    covariance: Covariance,
    *,
    shrinkage: float,
    jitter: float,
    iterations: int,
    tolerance: float,
    names: Tensor,
) -> tuple[Mixtures, Tensor]:
    """Runs EM until each class's mean log-likelihood changes by less than `tolerance`.

    Args:
        pieces: The rows; read once per iteration.
        start: First centres of the components, `[C, K, D]`; rows first go to the nearest.
        names: Numbers of the classes in errors, `[C]`.

    Returns:
        The mixtures, and each class's mean log-likelihood `[C]` before its last update.
    """
    classes, components, dim = start.shape
    names = names.to(start.device)
    active = torch.ones(classes, dtype=torch.bool, device=start.device)
    likelihood = torch.full((classes,), -torch.inf, dtype=torch.float64, device=start.device)

    def gather(expect: Callable[[Piece], tuple[Tensor, Tensor]]) -> Sums:
        sums = Sums(classes, components, dim, covariance, start.device)
        for piece in pieces:
            piece = piece[active[piece.which]]
            if len(piece.which):
                sums.add(piece, *expect(piece))
        return sums

    first = gather(lambda piece: nearest(piece, start[piece.which]))
    mixtures = first.maximise(active.nonzero().flatten(), shrinkage, jitter, names)
    mixtures = Mixtures(*(x.to(start.dtype) for x in vars(mixtures).values()))
    for _ in range(iterations):
        sums = gather(lambda piece: mixtures[piece.which].expect(piece))
        keep = active.nonzero().flatten()
        mixtures[keep] = sums.maximise(keep, shrinkage, jitter, names)
        now = sums.likelihood[keep] / sums.count[keep].sum(1)
        active[keep] = (now - likelihood[keep]).abs() >= tolerance
        likelihood[keep] = now
        if not bool(active.any()):
            break
    return mixtures, likelihood
