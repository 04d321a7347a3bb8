"""`openset monitor`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from openset.commands.options import Network, Trust
from openset.commands.screen import say, show


def monitor(
    model: Path,
    predictions: Annotated[list[Path], Parameter(negative="")],
    *,
    detector: str | None = None,
    state: Path | None = None,
    out: Path | None = None,
    alarm: float = 0.01,
    seed: int = 0,
    shuffle: bool = False,
    trust: Trust = None,
    network: Network = None,
) -> None:
    """Watch whether the images that a model answers about are still what it knows.

    While they are drawn as the held-out known images were, the alarm ever sounds with the given
    probability at most, however long and often one looks.

    Args:
        model: The model that gave the answers: its folder or file, or a run with `--detector`.
        predictions: Files that `openset predict --out` wrote, in the order of time.
        detector: The detector of a run whose model gave the answers.
        state: A small file that keeps what was seen, so that the next call goes on from there.
        out: A picture of the course to write (.svg, .png or .pdf).
        alarm: Probability of a false alarm, ever; as it was at first, where a state is gone on
            with.
        seed: Seed of the random numbers that break ties.
        shuffle: The images of a file did not come one after another, such as those of a folder,
            which are read by name, class after class: draw their order.
    """
    from openset.files import complete_file
    from openset.life.course import draw, table
    from openset.life.monitor import Monitor
    from openset.runs.run import load_model

    if state and out and state.resolve() == out.resolve():
        raise ValueError(f"--state and --out are one file, {out}; name two")
    loaded = load_model(model, detector, trust or (), network)
    there = state is not None and state.exists()
    watch = Monitor.load(state, loaded) if state and there else Monitor(loaded, alarm, seed)
    watch.read(predictions, shuffle=shuffle)
    with nullcontext() if state is None else complete_file(state) as partial:  # Both or none.
        if partial is not None:
            watch.save(partial)
        if out is not None:
            draw(watch, out)
    show(table(watch))
    for line in watch.said():
        say(line)
    if watch.state.first is not None and not shuffle:
        say("If the images of a file have no order in time, as those of a folder, give --shuffle.")
