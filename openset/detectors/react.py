"""ReAct: the energy of an image whose strongest activations are clipped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, head_energy, quantiles, sampled
from openset.spec import Count


class ReAct(Detector):
    """Scores an image by its energy with features clipped at a quantile of training activations.

    Sun, Guo & Li, 2021, https://arxiv.org/abs/2111.12797. Unknown images often raise a few units
    far above all others; clipped, they no longer make the classifier sure. One limit serves all
    units: a quantile of all activations of the training images.

    Args:
        quantile: The share of training activations that lie below the limit.
        max_rows: The most training images that the quantile is taken of, a seeded sample of all.
        seed: Seed of the sample.

    Example:
        >>> import torch
        >>> x = torch.linspace(0, 1, 101)[:, None]
        >>> head = torch.tensor([[1.0], [0.0]]), torch.zeros(2)
        >>> labels = torch.zeros(101, dtype=torch.long)
        >>> batch = Activations(torch.zeros(101, 2), {"penultimate": x}, labels, head=head)
        >>> round(ReAct().fit([batch]).limit.item(), 4)
        0.9
    """

    name = "react"
    layers = ("penultimate",)
    limit: Tensor

    def __init__(self, quantile: float = 0.9, max_rows: Count = 10_000, seed: int = 0):
        super().__init__()
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile is a share above 0 and at most 1; got {quantile}")
        self.quantile, self.max_rows, self.seed = quantile, max_rows, seed

    def fit(self, batches: Iterable[Activations]) -> Self:
        kept = sampled(Rows(batches, self.layers), self.max_rows, self.seed)
        self.keep(limit=quantiles(kept, [self.quantile])[0])
        return self

    def score(self, rows: Activations) -> Tensor:
        x = rows.stacked(self.layers)
        return head_energy(x.minimum(self.limit.to(x.dtype)), rows, self)
