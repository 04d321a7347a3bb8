"""The course of a stream as a table and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.table import Table

from openset.files import complete_file
from openset.life.monitor import Monitor, interval

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

    figure = Figure(figsize=(8, 5), layout="constrained")
    money, share = figure.subplots(2, sharex=True)
    state = monitor.state
    ends = np.minimum(state.block * (1 + np.arange(len(state.course))), state.count)
    money.plot([0, *ends], [0, *(b["winnings"] / np.log(10) for b in state.course)], "C0")
    money.axhline(-np.log10(state.alarm), color="C3", linestyle="--", label="alarm")
    if state.first is not None:
        money.axvline(state.first, color="C3", linewidth=1)
    money.set_ylabel("log10 of the winnings")
    money.legend(loc="upper left")
    counts = [np.sum([*block["classes"].values()], axis=0) for block in state.course]
    middles = (np.concatenate([[0], ends[:-1]]) + ends) / 2
    share.plot(middles, [unknown / images for images, unknown in counts], "C0.-")
    if counts:
        low, high = zip(*(interval(int(u), int(n)) for n, u in counts), strict=True)
        share.fill_between(middles, low, high, color="C0", alpha=0.2, label="95 % interval")
    if monitor.model.threshold is not None:
        usual = 1 - monitor.model.threshold.accept
        share.axhline(usual, color="C2", linestyle="--", label="of known images")
    share.set(xlabel="images", ylabel="share of unknown", ylim=(0, None))
    share.legend(loc="upper left")
    with complete_file(path) as partial:
        figure.savefig(partial, format=path.suffix[1:])
