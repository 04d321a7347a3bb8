"""Rules that make one score of several detectors' ranks: what each says and whose idea it is."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import torch
from torch import Tensor

ACCEPTED = 0.95
"""The share of known images on which a guard stays silent."""

DEEP = 700.0
"""The −log p up to which double precision holds p itself."""


def fisher(surprise: Tensor, weights: Tensor) -> Tensor:
    """Fisher, 1932: the mean of −log p. Detectors that are all somewhat surprised add up."""
    # No `@`: onnxruntime 1.31.1 gives a transposed matrix times a vector wrongly.
    return (surprise * weights).sum(1)


def harmonic(surprise: Tensor, weights: Tensor) -> Tensor:
    """Wilson, 2019, https://doi.org/10.1073/pnas.1814092116: −log of the harmonic mean p.

    The most surprised detector decides, however much the detectors depend on one another.
    """
    return (surprise + weights.log()).logsumexp(1)


def tippett(surprise: Tensor, weights: Tensor) -> Tensor:
    """Tippett, 1931, weighted as Bonferroni's bound is: −log of the smallest p / weight."""
    return (surprise + weights.log()).max(1).values


def guard(surprise: Tensor, weights: Tensor) -> Tensor:
    """The first detector's −log p; the others add theirs only beyond what 95 % of known have.

    After the truncated product of Zaykin et al., 2002, https://doi.org/10.1002/gepi.0042: what the
    others say within the usual is noise to the first, and far images lie beyond it.
    """
    beyond = (surprise[:, 1:] + log(1 - ACCEPTED)).clamp_min(0)
    return surprise[:, 0] * weights[0] + (beyond * weights[1:]).sum(1)


def simes(surprise: Tensor, weights: Tensor) -> Tensor:
    """Simes, 1986, https://doi.org/10.1093/biomet/73.3.751: −log of the least p_(i) n / i.

    Thresholded, the test of Magesh et al., 2022, https://arxiv.org/abs/2206.09522, whose factor for
    dependent detectors is the same for all images. Weighted as by Benjamini and Hochberg, 1997.
    """
    ordered, places = surprise.sort(1, descending=True)
    return (ordered + weights[places].cumsum(1).log()).max(1).values


def stouffer(surprise: Tensor, weights: Tensor) -> Tensor:
    """Stouffer et al., 1949: the mean of the normal deviates that have these p."""
    deep = surprise.double().clamp(1e-12, DEEP)
    deviate = -torch.special.ndtri((-deep).exp()) + (surprise - DEEP).clamp_min(0)
    return ((deviate * weights).sum(1) / weights.norm()).to(surprise.dtype)


def cauchy(surprise: Tensor, weights: Tensor) -> Tensor:
    """Liu & Xie, 2020, https://doi.org/10.1080/01621459.2018.1554485: the mean of cot(π p).

    As an arsinh, which keeps the order, for the mean grows like 1 / p.
    """
    p = (-surprise.double().clamp(1e-12, DEEP)).exp()
    found = ((torch.pi * p).tan().reciprocal() * weights).sum(1).asinh()
    return found.to(surprise.dtype) + (surprise - DEEP).clamp_min(0).amax(1)


def arithmetic(surprise: Tensor, weights: Tensor) -> Tensor:
    """−log of the mean p: all must be surprised. alibi-detect's `AverageAggregator` of 1 − p."""
    return -(weights.log() - surprise).logsumexp(1)


def least(surprise: Tensor, weights: Tensor) -> Tensor:
    """−log of the largest p: the least surprised decides. alibi-detect's `MinAggregator`."""
    return surprise.amin(1)


COMBINATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    rule.__name__: rule
    for rule in (fisher, harmonic, tippett, guard, simes, stouffer, cauchy, arithmetic, least)
}
"""Rules from −log p `[M, detectors]` and weights that sum to 1 to a score `[M]`."""


def joint(surprise: Tensor, known: Tensor) -> Tensor:
    """−log of the share of known images `[n, detectors]` that surprise every detector as much.

    The members' joint distribution is the empirical one, so nothing is assumed of how they depend
    on one another. Fisher's mean, a thousandth of it, breaks the many ties.
    """
    counts = (known >= surprise[:, None]).all(2).sum(1)
    return -((1 + counts) / (len(known) + 1)).log() + 1e-3 * surprise.mean(1)
