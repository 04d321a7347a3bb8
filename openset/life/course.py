"""The course of a stream as a table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from openset.files import complete_file
from openset.life.monitor import Monitor, interval
from openset.text import printable

ENDINGS = (".svg", ".png", ".pdf")


def table(monitor: Monitor) -> Table:
    """The share of unknown images by nearest class, with its 95 % interval."""
    found = Table()
    found.add_column("nearest class")
    for head in ("images", "unknown", "share", "95 % interval"):
        found.add_column(head, justify="right")
    shares = monitor.shares()
    together = tuple(sum(counts) for counts in zip(*shares.values(), strict=True)) or (0, 0)
    for name, (images, unknown) in {**shares, "together": together}.items():
        low, high = interval(unknown, images) if images else (0.0, 1.0)
        share = unknown / max(1, images)
        found.add_row(
            name, f"{images:,}", f"{unknown:,}", f"{share:.2%}", f"{low:.2%} … {high:.2%}"
        )
    return found


def draw(monitor: Monitor, path: Path) -> None:
    """Draws winnings and share of unknown images in the order in which the images came.

    Raises:
        ValueError: For a file that is no picture's.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(f"cannot write {path.name}; end the name in {', '.join(ENDINGS)}")
    from matplotlib.figure import Figure  # Slow to import.

    state = monitor.state
    figure = Figure(figsize=(8, 8), layout="constrained")
    money, share, classes = figure.subplots(3, sharex=True)
    ends = np.minimum(state.block * (1 + np.arange(len(state.course))), state.count)
    money.plot([0, *ends], [0, *(b["winnings"] / np.log(10) for b in state.course)], "C0")
    money.axhline(-np.log10(state.alarm), color="C3", linestyle="--", label="alarm")
    if state.first is not None:
        money.axvline(state.first, color="C3", linewidth=1)
    money.set_ylabel("log10 of the winnings")
    money.legend(loc="upper left")
    _draw_share(share, monitor, ends)
    _draw_classes(classes, monitor)
    with complete_file(path) as partial:
        figure.savefig(partial, format=path.suffix[1:])


def _draw_share(axes: Any, monitor: Monitor, ends: np.ndarray) -> None:
    """The share of unknown images in each block, with its interval."""
    counts = [np.sum([*block["classes"].values()], axis=0) for block in monitor.state.course]
    middles = (np.concatenate([[0], ends[:-1]]) + ends) / 2
    axes.plot(middles, [unknown / images for images, unknown in counts], "C0.-")
    if counts:
        low, high = zip(*(interval(int(u), int(n)) for n, u in counts), strict=True)
        axes.fill_between(middles, low, high, color="C0", alpha=0.2, label="95 % interval")
    if monitor.model.threshold is not None:
        usual = 1 - monitor.model.threshold.accept
        axes.axhline(usual, color="C2", linestyle="--", label="of known images")
    axes.set(ylabel="share of unknown", ylim=(0, None))
    axes.legend(loc="upper left")


def _draw_classes(axes: Any, monitor: Monitor) -> None:
    """The share of unknown images in each block by nearest class, dark where it is high."""
    names, state = list(monitor.shares()), monitor.state
    found = np.full((len(names), len(state.course)), np.nan)
    for i, block in enumerate(state.course):
        for name, (images, unknown) in block["classes"].items():
            found[names.index(name), i] = unknown / images
    if found.size:
        place = (0, state.block * len(state.course), len(names), 0)
        how: dict[str, Any] = {"vmin": 0, "vmax": 1, "cmap": "Blues", "interpolation": "nearest"}
        axes.imshow(found, aspect="auto", extent=place, **how)
    axes.set_yticks(np.arange(len(names)) + 0.5, [printable(name) for name in names])
    axes.set(xlabel="images", ylabel="nearest class", xlim=(0, max(1, state.count)))
