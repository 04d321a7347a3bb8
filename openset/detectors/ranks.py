"""Ranks scores among held-out known ones, on one scale for all detectors and classes."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Self

import torch
from torch import Tensor

from openset.detectors.tails import pareto
from openset.fitted import Fitted, NotFittedError


class TailRank(Fitted):
    """Turns scores into −log p, p being the share of known scores that are at least as high.

    At each of n held-out known scores, p = (1 + #{known ≥ s}) / (n + 1), the conformal p-value of
    Vovk et al., 2005, https://arxiv.org/abs/2107.07511. In between, −log p is interpolated, so that
    scores that differ keep different ranks. Above the largest it goes on as the generalised Pareto
    distribution fitted to the top tenth (Pickands, 1975, https://doi.org/10.1214/aos/1176343003;
    by probability-weighted moments, Hosking & Wallis, 1987): continuous and strictly increasing,
    so that far points rank among themselves. Below the smallest score p is 1.

    Several groups of scores, such as classes or detectors, are ranked side by side.

    Args:
        knots: The most scores kept of a group; of more, those at evenly spaced −log p stay, which
            are all of the highest.

    Example:
        >>> rank = TailRank().fit([torch.arange(99.0)])
        >>> (-rank(torch.tensor([[0.0], [89.0], [98.0]]))).exp().flatten().tolist()
        [1.0, 0.1..., 0.01...]
    """

    kind = "rank"
    score: Tensor
    value: Tensor
    shape: Tensor
    scale: Tensor

    def __init__(self, knots: int = 1000):
        super().__init__()
        self.knots = knots

    def fit(self, groups: Sequence[Tensor]) -> Self:
        """Learns from the held-out known scores `[n]` of each group."""
        if any(len(scores) < 2 for scores in groups):
            raise ValueError("ranks need at least 2 held-out known scores; hold out more images")
        tables = [self._table(scores.double()) for scores in groups]
        most = max(len(score) for score, _ in tables)
        pad = torch.nn.functional.pad
        # Padded knots lie beyond every score, so a search never reaches them.
        score = [pad(score, (0, most - len(score)), value=torch.inf) for score, _ in tables]
        value = [pad(value, (0, most - len(value)), value=float(value[-1])) for _, value in tables]
        shape, scale = zip(*(beyond(scores.double()) for scores in groups), strict=True)
        self.keep(score=torch.stack(score).float(), value=torch.stack(value).float())
        self.keep(shape=torch.stack(shape).float(), scale=torch.stack(scale).float())
        return self

    def _table(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct scores, ascending, with the −log p of each."""
        n = len(scores)
        # Single precision merges near scores; merged here, they share one knot.
        distinct, counts = scores.float().unique(return_counts=True)
        at_least = counts.flip(0).cumsum(0).flip(0)
        value = -((1 + at_least) / (n + 1)).log()
        if len(distinct) > self.knots:
            chosen = evenly_rare(value, self.knots)
            distinct, value = distinct[chosen], value[chosen]
        return distinct, value

    def forward(self, scores: Tensor) -> Tensor:
        """−log p of scores `[M, G]`, a column for each group."""
        if "score" not in self._buffers:
            raise NotFittedError(
                "there are no held-out known scores to rank among; call adjust(held_out) after fit"
            )
        knots, value = self.score.to(scores.dtype), self.value.to(scores.dtype)
        last = (knots.isfinite().sum(1) - 1)[:, None]
        s = scores.T
        upper = search(knots, s).clamp_min(1).minimum(last)
        lower = (upper - 1).clamp_min(0)
        left, right = knots.gather(1, lower), knots.gather(1, upper)
        part = ((s - left) / (right - left)).nan_to_num(1.0).clamp(0, 1)
        below = torch.lerp(value.gather(1, lower), value.gather(1, upper), part)
        excess = (s - knots.gather(1, last)).clamp_min(0) / self.scale[:, None].to(scores.dtype)
        shape = self.shape[:, None].to(scores.dtype)
        return (below + (shape * excess).log1p() / shape).T


def evenly_rare(value: Tensor, count: int) -> Tensor:
    """At most `count` positions in ascending −log p `[n]`, evenly spaced by it: all of the highest.

    The first and the last are among them.
    """
    wanted = torch.linspace(0, float(value[-1]), count, dtype=torch.double)
    return torch.searchsorted(value.double(), wanted.to(value.device)).unique()


def search(knots: Tensor, s: Tensor) -> Tensor:
    """Counts the knots `[G, n]` below each score `[G, M]`."""
    if torch.compiler.is_exporting():
        return (knots[:, None] < s[..., None]).sum(2)  # ONNX has no searchsorted.
    return torch.searchsorted(knots, s.contiguous())


def beyond(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and scale of the generalised Pareto distribution beyond the largest of scores `[n]`.

    The scale goes on from the threshold of the fit to the largest score, as the distribution's own
    does.
    """
    n = len(scores)
    top = scores.topk(min(n, ceil(n / 10) + 1)).values.flip(0)
    excess = (top - top[0])[1:]
    shape, scale = pareto(excess)
    scale = scale + shape * excess[-1]
    # Where the whole top is one value, the spread of all scores stands in for its scale.
    spread = (scores.max() - scores.min()) / torch.tensor(float(n)).log().to(scores)
    fallback = torch.where(spread > 0, spread, torch.ones_like(spread))
    return shape, torch.where(scale > 0, scale, fallback)
