"""VRA: the energy of an image whose weak activations are silenced and whose strong are clipped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, head_energy, quantiles, sampled
from openset.spec import Amount, Count


class VRA(Detector):
    """Scores an image by its energy with weak features set to zero and strong ones clipped.

    Xu, Lian, Liu & Tao, 2023, https://arxiv.org/abs/2302.11716: features below a become 0, those
    above b become b, and to those between `shift` is added (0 is VRA, above it VRA+). a and b are
    quantiles of all activations of the training images. pytorch-ood's and OpenOOD's clip from below
    at a low quantile instead of silencing.

    Args:
        lower: The share of training activations below a.
        upper: The share of training activations below b.
        shift: Added to what lies between, in units of the features.
        max_rows: The most training images that the quantiles are taken of, a seeded sample of all.
        seed: Seed of the sample.

    Example:
        >>> x = torch.linspace(0, 1, 101)[:, None]
        >>> head, labels = (torch.ones(1, 1), torch.zeros(1)), torch.zeros(101, dtype=torch.long)
        >>> batch = Activations(torch.zeros(101, 1), {"penultimate": x}, labels, head=head)
        >>> (-VRA(0.2, 0.8).fit([batch]).score(batch[[10, 50, 90]])).round(decimals=2).tolist()
        [0.0, 0.5, 0.800...]
    """

    layers = ("penultimate",)
    limits: Tensor

    def __init__(
        self,
        lower: float = 0.6,
        upper: float = 0.95,
        shift: Amount = 0.0,
        max_rows: Count = 10_000,
        seed: int = 0,
    ):
        super().__init__()
        if not 0 <= lower < upper <= 1:
            raise ValueError(f"shares are 0 ≤ lower < upper ≤ 1; got {lower} and {upper}")
        self.lower, self.upper, self.shift = lower, upper, shift
        self.max_rows, self.seed = max_rows, seed

    def fit(self, batches: Iterable[Activations]) -> Self:
        kept = sampled(Rows(batches, self.layers), self.max_rows, self.seed)
        self.keep(limits=quantiles(kept, [self.lower, self.upper]))
        return self

    def score(self, rows: Activations) -> Tensor:
        x = rows.stacked(self.layers)
        low, high = self.limits.to(x.dtype)
        between = torch.where(x > high, high, x + self.shift)
        return head_energy(torch.where(x < low, torch.zeros_like(x), between), rows, self)
