"""Processor time of runs in turns, which others at work on the same machine disturb little."""

import time
from collections.abc import Callable


def seconds(*runs: Callable[[], object], repeats: int) -> list[float]:
    """The smallest processor time of each run, each first every other time."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(repeats):
        for run, found in [*zip(runs, times, strict=True)][:: (-1) ** turn]:
            started = time.process_time()
            run()
            found.append(time.process_time() - started)
    return [min(found) for found in times]
