"""NAC: how often the states of an image's units were seen on training images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.logits import positive
from openset.detectors.rows import Rows, head_of, peek
from openset.spec import Count

BASE = 1000
"""Base of the logarithm by which bins widen from the middle outwards, as in the published code."""


class NAC(Detector):
    """Scores an image by how many of its units are in a state that training images seldom reach.

    Liu, Tian, Li, Ma & Liu, 2024, https://arxiv.org/abs/2306.02879, on the layer before the head. A
    unit's state is σ(α · z · ∂KL/∂z), z its value and KL the divergence of the class probabilities
    from the uniform; through a linear head that gradient is Wᵀ(p − 1/K), so no second look is
    needed. The score is the mean over units of −min(count of the state's bin / least, 1), between
    the bins' middles interpolated, so that rounding moves no score by a whole bin. One pass,
    constant memory. The published method takes several layers.

    Args:
        alpha: α, how steeply the state follows.
        bins: Number of bins of each unit's histogram, even; they are narrow about the middle.
        least: The count from which a bin is wholly covered.

    Example:
        >>> x = torch.randn(50, 4)
        >>> head = torch.randn(3, 4), torch.zeros(3)
        >>> batch = Activations(x @ head[0].T, {"penultimate": x}, torch.arange(50) % 3, head=head)
        >>> NAC().fit([batch]).counts.sum(1).tolist()
        [50.0, 50.0, 50.0, 50.0]
    """

    layers = ("penultimate",)
    counts: Tensor

    def __init__(self, alpha: float = 3.0, bins: Count = 50, least: Count = 50):
        super().__init__()
        if bins < 2 or bins % 2 or least < 1:
            raise ValueError(f"bins are even and least is at least 1; got {bins} and {least}")
        self.alpha, self.bins, self.least = positive(alpha, "alpha"), bins, least

    def fit(self, batches: Iterable[Activations]) -> Self:
        rows = Rows(batches, ("penultimate", "logits"))
        weight, classes = head_of(peek(batches), self)[0], rows.classes
        counts = torch.zeros(weight.shape[1], self.bins, dtype=torch.float64, device=weight.device)
        for both, _ in rows:
            place = self._place(both[:, :-classes], both[:, -classes:], weight)
            bins = place.long().clamp_max(self.bins - 1)
            counts.scatter_add_(1, bins.T, torch.ones_like(bins.T, dtype=counts.dtype))
        self.keep(counts=counts.float())
        return self

    def _place(self, x: Tensor, logits: Tensor, weight: Tensor) -> Tensor:
        """The place `[M, D]` of each unit's state among the bins, 0…bins."""
        slope = (logits.softmax(1) - 1 / logits.shape[1]) @ weight.to(x.dtype)
        state = (self.alpha * x * slope).sigmoid()
        half = self.bins // 2
        # Below the middle the j-th edge is log(1 + j (√BASE − 1) / half) / log BASE.
        side = (BASE ** state.minimum(1 - state) - 1) / (BASE**0.5 - 1) * half
        return torch.where(state >= 0.5, self.bins - side, side)

    def score(self, rows: Activations) -> Tensor:
        x = rows.stacked(self.layers)
        place = self._place(x, rows.logits, head_of(rows, self)[0]).T - 0.5
        place = place.clamp(0, self.bins - 1)
        below = place.floor().clamp_max(self.bins - 2)
        covered = (self.counts.to(x.dtype) / self.least).clamp_max(1)
        low, high = (covered.gather(1, below.long() + step) for step in (0, 1))
        return -torch.lerp(low, high, place - below).mean(0)
