"""Local outlier factor: the density around a row, compared with that around its neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from openset.densities.base import Density, in_chunks, need_rows, padded
from openset.sampling import reservoir
from openset.spec import Count

FAR = 1e30
"""Squared distance to padding; finite, because a share of 0 times infinity is no number."""


PAIRS = 512
"""Pairs of rows whose distance is taken at once; so few stay in a processor's cache."""


class LocalOutlierFactor(Density):
    """Says how much sparser the training rows are around a row than around its neighbours.

    Breunig et al., "LOF: identifying density-based local outliers" (2000),
    https://doi.org/10.1145/335191.335388. A row's local reachability density is one over the mean
    of max(distance to a neighbour, that neighbour's distance to its own k-th); the score is the
    neighbours' mean density over the row's. It is 1 inside a cluster and grows outside.
    scikit-learn finds the neighbours of a seeded sample of at most `max_rows` rows a class; scores
    are those of its `score_samples` with `novelty=True`, negated.

    Args:
        neighbours: Neighbours k that are looked at; all others where a class has no more rows.
        max_rows: The most rows of a class that are kept.
        seed: Seed of the sample.

    Example:
        >>> density = LocalOutlierFactor().fit([torch.randn(100, 2)])
        >>> near, far = density(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
        >>> bool(far > near)
        True
    """

    centre: Tensor
    rows: Tensor
    padding: Tensor
    reach: Tensor
    density: Tensor
    share: Tensor

    def __init__(self, neighbours: Count = 20, max_rows: Count = 10_000, seed: int = 0):
        super().__init__()
        self.neighbours, self.max_rows, self.seed = neighbours, max_rows, seed

    def fit_classes(self, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Self:
        rows, counts = reservoir(batches, classes, self.max_rows, self.seed)
        need_rows(counts, 2, self, "give more images of it")
        target = rows[0].device, torch.promote_types(rows[0].dtype, torch.float32)
        learned = [self._densities(x) for x in rows]
        centre = torch.stack([x.double().mean(0) for x in rows])
        self.keep(
            centre=centre.to(*target),
            rows=padded([x.double() - mean for x, mean in zip(rows, centre, strict=True)]).to(
                *target
            ),
            padding=padded([torch.zeros(len(x)) for x in rows], FAR).to(*target),
            reach=padded([reach for reach, _ in learned]).to(*target),
            density=padded([density for _, density in learned]).to(*target),
            share=padded([torch.full((self._near(x),), 1 / self._near(x)) for x in rows]).to(
                *target
            ),
        )
        return self

    def _near(self, x: Tensor) -> int:
        return min(self.neighbours, len(x) - 1)

    def _densities(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's distance to its k-th neighbour and its local reachability density."""
        from sklearn.neighbors import NearestNeighbors  # Slow to import.

        search = NearestNeighbors(n_neighbors=self._near(x)).fit(x.double().cpu().numpy())
        distance, index = map(torch.from_numpy, search.kneighbors())
        reach = distance[:, -1]
        return reach, _reachability(distance.maximum(reach[index]).mean(1))

    @property
    def classes(self) -> int:
        return len(self.rows)

    def surprise(self, x: Tensor, c: int) -> Tensor:
        rows, share = self.rows[c], self.share[c]
        offset = self.padding[c] + rows.square().sum(1)

        def score(x: Tensor) -> Tensor:
            x = x.to(rows) - self.centre[c]
            norm = x.square().sum(1, keepdim=True)
            # Equal for all training rows, |x|² does not change which of them are nearest.
            nearest = torch.addmm(offset, x, rows.T, alpha=-2).topk(len(share), largest=False)
            squares, index = nearest.values + norm, nearest.indices
            # Close to a row the product cancels, and the distance is taken again.
            if torch.compiler.is_exporting():
                squares = _squares(x[:, None], rows[index])
            else:
                close = squares < 0.1 * norm
                pairs = zip(close.nonzero().split(PAIRS), index[close].split(PAIRS), strict=True)
                squares[close] = torch.cat([_squares(x[i[:, 0]], rows[j]) for i, j in pairs])
            reach = (squares.clamp_min(0).sqrt().maximum(self.reach[c][index]) * share).sum(1)
            return (self.density[c][index] * share).sum(1) / _reachability(reach)

        return in_chunks(score, x, 1024)


def _squares(x: Tensor, rows: Tensor) -> Tensor:
    """Squared distances `[…]` between rows `[…, D]`."""
    return (rows - x).square().sum(-1)


def _reachability(mean: Tensor) -> Tensor:
    """Density from the mean reach; the constant is scikit-learn's, for more than k duplicates."""
    return 1 / (mean + 1e-10)
