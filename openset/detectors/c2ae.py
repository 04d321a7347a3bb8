"""C2AE: how badly an image is drawn again, whichever class its decoder is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows
from openset.detectors.tails import pareto, within

STEPS = 1000
"""Thresholds that are tried between the smallest and the largest error."""


class C2AE(Detector):
    """Scores an image by the least of its reconstruction errors, over all classes it may be of.

    For a network trained with the objective `c2ae`; it reads the layer `"errors"`. The label is the
    classifier's. `fit` finds the paper's threshold τ, and the score is the error less τ: above 0
    the paper says unknown. τ minimises (1 − u) P(match ≥ τ) + u P(non-match ≤ τ) over the training
    images, where match is the error for the own class, non-match that for another, and the ends of
    both beyond a share `tail` follow a generalised Pareto distribution. It moves every score alike
    and ranks nothing; a model's own threshold is from held-out images, as for any detector.

    Where the decoder hardly heeds the class, as on photographs, the score is a plain reconstruction
    error, for which smooth unknown images look known.

    Paper: Oza & Patel, *C2AE: Class Conditioned Auto-Encoder for Open-set Recognition*, 2019,
    https://arxiv.org/abs/1904.01198.

    Args:
        tail: Share of the errors that make a tail; the paper reads it off plots.
        unknown: u, the probability that an image is unknown.

    Example:
        >>> errors = torch.tensor([[0.1, 0.5], [0.6, 0.2]]).repeat(20, 1)
        >>> errors += 0.01 * torch.rand(40, 2)
        >>> seen = Activations(errors, {"errors": errors}, torch.tensor([0, 1]).repeat(20))
        >>> bool((C2AE().fit([seen])(seen) < 0).all())
        True
    """

    name = "c2ae"
    layers = ("errors",)
    objectives = ("c2ae",)
    tau: Tensor

    def __init__(self, tail: float = 0.1, unknown: float = 0.5):
        super().__init__()
        if not 0 < tail < 1 or not 0 < unknown < 1:
            raise ValueError(f"tail and unknown must lie between 0 and 1; got {tail} and {unknown}")
        self.tail, self.unknown = tail, unknown

    def fit(self, batches: Iterable[Activations]) -> Self:
        parts = [*Rows(batches, self.layers)]
        errors = torch.cat([x for x, _ in parts]).double()
        own = torch.zeros_like(errors, dtype=torch.bool)
        own.scatter_(1, torch.cat([labels for _, labels in parts])[:, None], value=True)
        match, non_match = errors[own], errors[~own]
        tried = torch.linspace(float(errors.min()), float(errors.max()), STEPS).to(errors)
        missed = beyond(match, tried, self.tail)
        accepted = beyond(-non_match, -tried, self.tail)
        cost = (1 - self.unknown) * missed + self.unknown * accepted
        self.keep(tau=tried[cost.argmin()].float())
        return self

    def score(self, rows: Activations) -> Tensor:
        errors = rows.values("errors")
        return errors.amin(1) - self.tau.to(errors.dtype)


def beyond(values: Tensor, at: Tensor, tail: float) -> Tensor:
    """P(value ≥ t) at each t: the share there is, and beyond the largest `tail` of them a Pareto's.

    Args:
        values: What was seen, `[n]`.
        at: `[m]`.
        tail: The share of the values that the generalised Pareto distribution is fitted to.
    """
    ordered = values.sort().values
    start = ordered[min(int(len(ordered) * (1 - tail)), len(ordered) - 1)]
    excess = ordered[ordered >= start] - start
    share = len(excess) / len(ordered)
    seen = 1 - torch.searchsorted(ordered, at.contiguous()).to(ordered) / len(ordered)
    return torch.where(at < start, seen, share * (1 - within(at - start, *pareto(excess))))
