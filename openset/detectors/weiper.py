"""WeiPer+KLD: histograms of an image's features and of many noisy logits beside the usual ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, head_of, peek
from openset.spec import Amount, Count

BINS, SMOOTH = 100, 20
"""Bins of a histogram, and how many are averaged."""

FLOORS = (0.01, 0.025)
"""Added to the bins of features and of noisy logits. All four are the published code's."""


class WeiPer(Detector):
    """Scores an image by how its histograms of features and of noisy logits differ from the usual.

    Granz, Heurich & Landgraf, 2024, https://arxiv.org/abs/2405.17164 (WeiPer+KLD). The head's
    weights get noise, `repeats` times; KL(features) + λ₁ KL(noisy logits) − λ₂ (mean largest
    probability of the noisy heads), KL being the symmetric divergence of the image's smoothed
    histogram from the mean one of training images. Two passes, constant memory.

    Args:
        repeats: Number of noisy heads.
        distance: Length of the noise, as a share of the weight's.
        weights: λ₁ and λ₂.
        seed: Seed of the noise.

    Example:
        >>> x, head = torch.rand(50, 8), (torch.randn(3, 8), torch.zeros(3))
        >>> batch = Activations(x @ head[0].T, {"penultimate": x}, torch.arange(50) % 3, head=head)
        >>> WeiPer(repeats=5).fit([batch]).usual.shape
        torch.Size([2, 100])
    """

    name = "weiper"
    layers = ("penultimate",)
    heads: Tensor
    low: Tensor
    high: Tensor
    usual: Tensor

    def __init__(
        self,
        repeats: Count = 100,
        distance: Amount = 2.1,
        weights: Sequence[float] = (1.0, 1.0),
        seed: int = 0,
    ):
        super().__init__()
        if repeats < 1 or len(weights) != 2:
            raise ValueError(f"repeats is at least 1, weights are two; got {repeats}, {weights}")
        self.repeats, self.distance, self.weights, self.seed = repeats, distance, weights, seed

    def fit(self, batches: Iterable[Activations]) -> Self:
        rows, (weight, bias) = Rows(batches, self.layers), head_of(peek(batches), self)
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.repeats, *weight.shape, generator=generator)
        noise = F.normalize(noise.to(weight), dim=2) * weight.norm(dim=1, keepdim=True)
        noisy = (weight + self.distance * noise).flatten(0, 1)
        self.keep(heads=torch.cat([noisy, bias.repeat(self.repeats)[:, None]], 1).float())
        ends = [[view.aminmax() for view in self.views(x)] for x, _ in rows]
        low, high = (torch.tensor([[v[i] for v in part] for part in ends]) for i in (0, 1))
        self.keep(low=low.amin(0).to(weight.device), high=high.amax(0).to(weight.device))
        sums = torch.stack([self.histograms(x).double().sum(1) for x, _ in rows]).sum(0)
        self.keep(usual=(sums / sums.sum(1, keepdim=True)).float())
        return self

    def views(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features `[M, D]`, and the logits `[M, repeats × K]` of all noisy heads."""
        return x, x @ self.heads[:, :-1].to(x.dtype).T + self.heads[:, -1].to(x.dtype)

    def histograms(self, x: Tensor) -> Tensor:
        """Shares `[2, M, BINS]` of each row's values; what lies beyond the bounds is left out."""
        found = []
        for i, values in enumerate(self.views(x)):
            low, high = self.low[i].to(x.dtype), self.high[i].to(x.dtype)
            place = (values - low) / (high - low).clamp_min(1e-8) * BINS
            inside = ((place >= 0) & (place <= BINS)).to(x.dtype) / values.shape[1]
            empty = x.new_zeros(x.shape[0], BINS)
            found.append(empty.scatter_add(1, place.long().clamp(0, BINS - 1), inside))
        return torch.stack(found)

    def score(self, rows: Activations) -> Tensor:
        x = rows.stacked(self.layers)
        parts = zip(self.histograms(x), self.usual.to(x.dtype), FLOORS, strict=True)
        first, second = (divergence(smoothed(q) + floor, p + floor) for q, p, floor in parts)
        sure = self.views(x)[1].unflatten(1, (self.repeats, -1)).softmax(2).amax(2).mean(1)
        return first + self.weights[0] * second - self.weights[1] * sure


def smoothed(histogram: Tensor) -> Tensor:
    """The mean over SMOOTH bins about each, `[M, BINS]`; the outermost go on beyond the ends."""
    before = (SMOOTH - 1) // 2
    padded = F.pad(histogram[:, None], (before, SMOOTH - 1 - before), mode="replicate")
    return F.avg_pool1d(padded, SMOOTH, stride=1).squeeze(1)


def divergence(q: Tensor, p: Tensor) -> Tensor:
    """KL(p‖q) + KL(q‖p) of `[M, BINS]` from `[BINS]`, each scaled to the sum one."""
    q, p = q / q.sum(1, keepdim=True), p / p.sum()
    return ((q - p) * (q.log() - p.log())).sum(1)
