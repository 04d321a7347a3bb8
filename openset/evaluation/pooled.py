"""Scores of any number of pixels in bounded memory: all while they are few, then counts in bins."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from openset.evaluation.ranking import Ranking, check_numbers

HELD = 2**24
"""Pixels up to which the pooled figures are exact; beyond, scores are counted in bins."""


BINS = 2**16
"""Bins whose edges are quantiles of the first `HELD` pixels, half of the known, half of the others.

A score is off by one bin at most, which moves a share of known or unknown by 2⁻¹⁵ if later images
score as the first ones do.
"""


class PooledScores:
    """Collects scores of known and unknown pixels, image by image.

    Args:
        held: Pixels up to which the ranking is exact.
        bins: Bins used beyond.
    """

    def __init__(self, held: int = HELD, bins: int = BINS):
        self.held, self.bins = held, bins
        self.waiting: list[np.ndarray] = []
        self.edges: np.ndarray | None = None
        self.counts = np.zeros((2, bins + 1), dtype=np.int64)

    def add(self, keys: np.ndarray) -> None:
        """Takes in pixels as `packed` gives them."""
        self.waiting.append(keys)
        if sum(map(len, self.waiting)) > self.held:
            self._fold()

    def ranking(self) -> Ranking:
        """Ranks all pixels so far, exactly or by bins."""
        if self.edges is None:
            return grouped(self._waiting())
        self._fold()
        return Ranking(self.counts[0], self.counts[1])

    def _waiting(self) -> np.ndarray:
        return np.sort(np.concatenate([np.zeros(0, np.uint64), *self.waiting]))

    def _fold(self) -> None:
        """Counts the waiting pixels; the first time, their quantiles become the bins' edges."""
        keys = self._waiting()
        self.waiting = []
        sides = [(keys[keys & 1 == bit] >> 1).astype(np.uint32) for bit in (0, 1)]
        if self.edges is None:
            edges = [_quantiles(side, self.bins // 2) for side in sides if len(side)]
            self.edges = np.unique(np.concatenate(edges))
            self.counts = np.zeros((2, len(self.edges) + 1), dtype=np.int64)
        for side, counts in zip(sides, self.counts, strict=True):
            # Few edges are looked up among many sorted scores, not the other way round.
            below = np.searchsorted(side, self.edges, side="right")
            counts += np.diff(below, prepend=0, append=len(side))


def packed(score: Tensor, is_unknown: Tensor) -> np.ndarray:
    """Packs scores into integers of the same order, above a last bit for unknown: uint64 `[M]`.

    Raises:
        ValueError: For NaN.
    """
    x = (score.detach().float().flatten().cpu() + 0.0).numpy()  # −0 becomes 0.
    check_numbers(x, "scores")
    bits = x.view(np.int32)
    # Negative floats order backwards as integers: all their bits are turned.
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) + 2**31
    return (ordered.astype(np.uint64) << np.uint64(1)) | is_unknown.cpu().numpy().astype(np.uint64)


def grouped(keys: np.ndarray) -> Ranking:
    """Ranks sorted pixels as `packed` gives them."""
    if not len(keys):
        return Ranking(np.zeros(0, np.int64), np.zeros(0, np.int64))
    score = keys >> np.uint64(1)
    starts = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))
    unknown = np.add.reduceat((keys & np.uint64(1)).astype(np.int64), starts)
    return Ranking(np.diff(starts, append=len(keys)) - unknown, unknown)


def _quantiles(ordered: np.ndarray, count: int) -> np.ndarray:
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(np.int64)
    return ordered[places]
