"""The axis of a histogram of scores: bars that show the known scores and far ones alike."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, log10
from typing import Any

import numpy as np
from torch import Tensor

from openset.scoring.scored import Thresholds

BARS = 60
"""Bars of a histogram."""


FAR = 30
"""Widths of the bulk of the known scores beyond which an axis is compressed at its ends."""


def axis(known: Tensor, unknown: Tensor, threshold: Thresholds | None) -> dict[str, Any]:
    """Edges of the bars in the score's units, and the places and texts of the ticks.

    Bars are equally wide on the page; where a far set would squeeze the known scores into a single
    one, the axis is linear within their bulk and logarithmic beyond.
    """
    pair = [np.asarray(score.detach().cpu().double()) for score in (known, unknown)]
    low, high = _span(pair, threshold)
    centre, width = _bulk(pair[0])
    if high - low <= FAR * width:
        edges = np.linspace(low, high, BARS + 1)
        ticks = _round_numbers(low, high)
    else:
        forward, inverse = _compressing(centre, width)
        edges = inverse(np.linspace(forward(low), forward(high), BARS + 1))
        ticks = sorted({float(f"{x:.1g}") for x in edges[5::10]})
    places = np.interp(ticks, edges, np.arange(BARS + 1))
    return {
        "edges": edges.tolist(),
        "ticks": places.round(4).tolist(),
        "texts": [_text(tick) for tick in ticks],
    }


def _span(pair: list[np.ndarray], threshold: Thresholds | None) -> tuple[float, float]:
    """Finds the ends: all but the outermost half per cent of each side, and the thresholds."""
    lines = np.atleast_1d(np.asarray([] if threshold is None else threshold, dtype=float))
    ends = [np.quantile(x[np.isfinite(x)], (0.005, 0.995)) for x in pair if np.isfinite(x).any()]
    ends = np.concatenate([*ends, lines[np.isfinite(lines)], [] if ends else [0.0]])
    # Where all scores are equal, numbers next to them are not told apart by less.
    margin = 0.02 * (ends.max() - ends.min()) or max(0.5, 0.01 * abs(ends.max()))
    return float(ends.min() - margin), float(ends.max() + margin)


def _bulk(x: np.ndarray) -> tuple[float, float]:
    """Centre and width of the middle of the finite values."""
    finite = x[np.isfinite(x)]
    low, middle, high = np.quantile(finite, (0.1, 0.5, 0.9)) if len(finite) else (0, 0, 0)
    return float(middle), float(high - low) or max(1.0, 0.01 * abs(middle))


def _compressing(centre: float, width: float) -> tuple[Callable, Callable]:
    """A map that is linear within the bulk and logarithmic beyond, and its inverse."""
    return (
        lambda x: np.arcsinh((np.asarray(x) - centre) / width),
        lambda y: centre + width * np.sinh(np.clip(y, -700, 700)),
    )


def _round_numbers(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers at even steps between two ends, about so many."""
    rough = (high - low) / count
    size = 10.0 ** floor(log10(rough))
    step = next(size * each for each in (1, 2, 5, 10) if size * each >= rough)
    first = ceil(low / step)
    return [step * i for i in range(first, floor(high / step) + 1)]


def _text(tick: float) -> str:
    plain = f"{tick:,.10g}" if 1e-4 <= abs(tick) < 1e7 or not tick else f"{tick:.3g}"
    return plain.replace("-", "−")
