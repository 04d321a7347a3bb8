"""The report's pictures as SVG, whose ink follows the reader's light or dark page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from openset.activations import UNKNOWN
from openset.evaluation.ranking import Ranking
from openset.scoring.scored import Scored, Thresholds

KNOWN, SERIES = "#3f7cbf", ("#d9752b", "#1f9e89", "#b0559f", "#b8931f", "#7268d6", "#cf4f5c")
"""Colours of known and of the unknown sets, told apart on light and dark and by the colour-blind"""


INK = "#010203"
"""Placeholder for the page's text colour, until `_svg` replaces it by `currentColor`."""


STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "openset",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}color": INK for part in ("edge", "label", "title")},
}


BINS = 60
"""Bars of a histogram."""


POINTS = 300
"""The most points of a ROC curve; more could not be seen and would only fill the page."""


NUMBERED, NAMED = 16, 60
"""The most classes whose cells of the confusion matrix are numbered, and whose names are shown."""


def histogram(known: Scored, unknown: Scored, threshold: Thresholds | None) -> str:
    """The scores of known and of one unknown set, with the threshold, as SVG."""

    def draw() -> Figure:
        figure = Figure((3.4, 1.9))
        axes = figure.subplots()
        figure.subplots_adjust(0.15, 0.23, 0.98, 0.97)
        _draw_histogram(axes, known, unknown, threshold)
        return figure

    return _svg(draw)


def _draw_histogram(
    axes: Axes, known: Scored, unknown: Scored, threshold: Thresholds | None
) -> None:
    pair = [np.asarray(scored.score.detach().cpu().double()) for scored in (known, unknown)]
    lines = np.atleast_1d(np.asarray([] if threshold is None else threshold, dtype=float))
    lines = lines[np.isfinite(lines)]
    edges = _scale(axes, pair, lines)
    for scores, colour in zip(pair, (KNOWN, SERIES[0]), strict=True):
        share = np.histogram(scores.clip(edges[0], edges[-1]), edges)[0] / len(scores)
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(share, edges, color=colour, linewidth=1.1)
    if len(lines):
        # Thresholds per class appear as the band that they span.
        axes.axvspan(lines.min(), lines.max(), color=INK, alpha=0.12, linewidth=0)
        axes.axvline(float(np.median(lines)), color=INK, linewidth=1, dashes=(4, 2))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlabel("score →")


def _scale(axes: Axes, pair: Sequence[np.ndarray], lines: np.ndarray) -> np.ndarray:
    """Edges of the bars, equally wide on the axis, whose far ends are compressed if need be."""
    low, high = _span(pair, lines)
    centre, width = _bulk(pair[0])
    if high - low <= 30 * width:
        return np.linspace(low, high, BINS + 1)
    # A far set would squeeze the known scores into a single bar.
    forward, inverse = _compressing(centre, width)
    edges = inverse(np.linspace(forward(low), forward(high), BINS + 1))
    axes.set_xscale("function", functions=(forward, inverse))
    axes.set_xticks(sorted({float(f"{x:.1g}") for x in edges[5::10]}))
    axes.minorticks_off()
    return edges


def _span(pair: Sequence[np.ndarray], lines: np.ndarray) -> tuple[float, float]:
    """Finds the ends: all but the outermost half per cent of each side, and the thresholds."""
    ends = [np.quantile(x[np.isfinite(x)], (0.005, 0.995)) for x in pair if np.isfinite(x).any()]
    ends = np.concatenate([*ends, lines, [] if ends else [0.0]])
    margin = 0.02 * (ends.max() - ends.min()) or 0.5
    return float(ends.min() - margin), float(ends.max() + margin)


def _bulk(x: np.ndarray) -> tuple[float, float]:
    """Centre and width of the middle of the finite values."""
    finite = x[np.isfinite(x)]
    low, middle, high = np.quantile(finite, (0.1, 0.5, 0.9)) if len(finite) else (0, 0, 0)
    return float(middle), float(high - low) or 1.0


def _compressing(centre: float, width: float) -> tuple[Callable, Callable]:
    """A map that is linear within the bulk and logarithmic beyond, and its inverse."""
    return (
        lambda x: np.arcsinh((np.asarray(x) - centre) / width),
        lambda y: centre + width * np.sinh(np.clip(y, -700, 700)),
    )


def curves(known: Scored, unknown: Mapping[str, Scored], threshold: Thresholds | None) -> str:
    """ROC of every unknown set, known positive, with the threshold's point, as SVG."""

    def draw() -> Figure:
        figure = Figure((4.7, 4.3))
        axes = figure.subplots()
        figure.subplots_adjust(0.13, 0.12, 0.98, 0.98)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.6, alpha=0.4)
        axes.axhline(0.95, color=INK, linewidth=0.6, alpha=0.4, dashes=(2, 3))
        axes.text(1, 0.94, "95 %", ha="right", va="top", fontsize=8, alpha=0.7)
        for i, (name, scored) in enumerate(unknown.items()):
            colour, dashes = SERIES[i % len(SERIES)], ["-", "--", ":", "-."][i // len(SERIES) % 4]
            ranking = Ranking.of(known.score, scored.score)
            area = f"{name}  {ranking.auroc():.3f}"
            axes.plot(*_curve(ranking), color=colour, linestyle=dashes, label=area)
            if threshold is not None:
                point = _point(known, scored, threshold)
                axes.plot(*point, "o", color=colour, markersize=5, clip_on=False)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set(xlabel="share of unknown accepted", ylabel="share of known accepted")
        axes.legend(loc="lower right", title="AUROC", alignment="left", fontsize=8)
        return figure

    return _svg(draw)


def _curve(ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    """Shares of unknown and known accepted, at no more than `POINTS` thresholds."""
    unknown, known = ranking.curve()
    length = np.concatenate([[0], np.cumsum(np.diff(unknown) + np.diff(known))])
    chosen = np.unique(np.searchsorted(length, np.linspace(0, length[-1], POINTS)))
    return unknown[chosen], known[chosen]


def _point(known: Scored, unknown: Scored, threshold: Thresholds) -> list[list[float]]:
    return [[1 - float(s.rejected(threshold).double().mean())] for s in (unknown, known)]


def confusion_counts(
    known: Scored, unknown: Mapping[str, Scored], classes: int, threshold: Thresholds
) -> np.ndarray:
    """Images `[K + sets, K + 1]`: true class, or unknown set, by answer; the last is unknown."""
    counts = np.zeros((classes + len(unknown), classes + 1), dtype=int)
    rows = [known.label.cpu().numpy()]
    rows += [np.full(len(scored), classes + i) for i, scored in enumerate(unknown.values())]
    answers = [scored.answers(threshold).cpu().numpy() for scored in (known, *unknown.values())]
    answer = np.concatenate(answers)
    np.add.at(counts, (np.concatenate(rows), np.where(answer == UNKNOWN, classes, answer)), 1)
    return counts


def confusion(counts: np.ndarray, classes: Sequence[str], unknown: Sequence[str]) -> str:
    """True class by answer; the shade is the share of the row, as SVG."""

    def draw() -> Figure:
        side = np.clip(1.3 + 0.36 * len(classes), 4.3, 7)
        figure = Figure((side, side * counts.shape[0] / counts.shape[1] * 0.86 + 0.5))
        axes = figure.subplots()
        figure.subplots_adjust(0.23, 0.24, 0.99, 0.99)
        share = counts / counts.sum(1, keepdims=True).clip(1)
        shades = LinearSegmentedColormap.from_list("shades", [KNOWN + "00", KNOWN])
        axes.imshow(share, cmap=shades, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        for line, at in ((axes.axhline, len(classes)), (axes.axvline, len(classes))):
            line(at - 0.5, color=INK, linewidth=0.8)
        if len(classes) <= NUMBERED:
            for (row, column), count in np.ndenumerate(counts):
                colour = "white" if share[row, column] > 0.6 else INK
                if count:
                    middle = {"ha": "center", "va": "center", "fontsize": 9 if count < 1000 else 7}
                    axes.text(column, row, f"{count}", color=colour, **middle)
        _name_ticks(axes, [*classes, *unknown], [*classes, "unknown"])
        return figure

    return _svg(draw)


def _name_ticks(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.tick_params(length=0, labelsize=8 if len(columns) <= NUMBERED else 5)
    axes.spines[:].set_visible(False)
    if len(columns) > NAMED:
        axes.set(xticks=[], yticks=[])
        return
    axes.set_yticks(range(len(rows)), [_short(name) for name in rows])
    axes.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=90)


def _short(name: str, length: int = 16) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _svg(draw: Callable[[], Figure]) -> str:
    """The SVG of a figure, with the reader's fonts and the page's ink in place of fixed ones."""
    text = io.StringIO()
    with rc_context(STYLE), warnings.catch_warnings():
        # A class name may hold glyphs that matplotlib's font lacks; the browser's fonts have them.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        draw().savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text.getvalue())
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    ink = ":root{color:#22262c}@media(prefers-color-scheme:dark){:root{color:#d6dae0}}"
    return svg.replace("<defs>", f"<style>{ink}</style><defs>", 1)
