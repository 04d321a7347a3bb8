"""The generalised Pareto distribution, to which what lies beyond any high threshold tends."""

from __future__ import annotations

import torch
from torch import Tensor


def pareto(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Shape ξ and scale σ of the generalised Pareto distribution of excesses over a threshold.

    P(excess > x) = (1 + ξ x / σ)^(−1/ξ), by probability-weighted moments (Hosking & Wallis, 1987,
    https://doi.org/10.1080/00401706.1987.10488243; Pickands, 1975,
    https://doi.org/10.1214/aos/1176343003). The shape is held in 0.001…0.9: a negative one would
    end at a largest possible value, and beyond 0.9 there is hardly a mean.

    Args:
        excess: `[n]`, ascending, at least 0.

    Example:
        >>> quantiles = -(1 - (torch.arange(1000) + 0.5) / 1000).log()  # Of the exponential.
        >>> shape, scale = pareto(quantiles)
        >>> round(shape.item(), 2), round(scale.item(), 2)
        (0.0, 1.0)
    """
    n = len(excess)
    # a₀ = E[x], a₁ = E[x (1 − F(x))].
    rest = 1 - (torch.arange(1, n + 1).to(excess) - 0.35) / n
    mean, weighted = excess.mean(), (excess * rest).mean()
    shape = (2 - mean / (mean - 2 * weighted)).nan_to_num(0.0).clamp(1e-3, 0.9)
    return shape, mean * (1 - shape)


def within(excess: Tensor, shape: Tensor, scale: Tensor) -> Tensor:
    """The probability of a smaller excess than each of these; 0 below the threshold."""
    return -torch.expm1(-(shape * excess.clamp_min(0) / scale).log1p() / shape)
