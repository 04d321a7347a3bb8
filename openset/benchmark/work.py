"""The work folder of a benchmark: shared by processes, and written beside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from openset.evaluation.results import Results
from openset.files import Busy, complete_folder, locked
from openset.runs.evaluate import write_results

PARTIAL = ".results-"
"""The first letters of the folder in which results are written before they take their place."""


def write_beside(results: Results, out: Path, *, report: bool = True) -> None:
    """Writes the results into a folder that holds the work folder too, file by file.

    Args:
        results: The results.
        out: The folder.
        report: Whether to draw the report too, which takes seconds.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".results.lock", wait=True):
        for left in out.glob(PARTIAL + "*"):
            shutil.rmtree(left)
        fresh = out / f"{PARTIAL}new"
        with complete_folder(fresh) as partial:
            (write_results if report else Results.write)(results, partial)
        for file in sorted(fresh.iterdir()):
            os.replace(file, out / file.name)
        fresh.rmdir()


@contextmanager
def at_work(work: Path, name: str, *, wait: bool = False) -> Iterator[bool]:
    """Keeps other processes from a step, or from a run, of a work folder.

    Args:
        work: The work folder.
        name: The name of the step or of the run's folder.
        wait: Whether to wait while another process is at it.

    Yields:
        Whether this process may work on it; False where another one does.
    """
    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(locked(work / f".{name}.lock", wait=wait))
        except Busy:
            yield False
            return
        yield True


@contextmanager
def activations(work: Path, name: str) -> Iterator[str]:
    """An empty folder for the activations of a step, which is gone at the end."""
    folder = work / f".{name}.activations"
    shutil.rmtree(folder, ignore_errors=True)  # A killed process may have left it.
    try:
        folder.mkdir()
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def part_of(results: Results, detector: str) -> Results:
    """The results of one detector, with the images that its part of the report shows."""
    part = Results([row for row in results.rows if row.detector == detector])
    for case in (case for case in results.scored if case.detector == detector):
        part.scored[case] = results.scored[case]
        for name in ("thresholds", "held_out", "maps"):
            if case in (found := getattr(results, name)):
                getattr(part, name)[case] = found[case]
        part.classes[case.run] = results.classes[case.run]
        kept = results.images.get(case.run, {})
        for name, indices in part.wanted_images(case.run).items():
            there = {i: kept[name][i] for i in indices if i in kept.get(name, {})}
            told = results.details.get(case.run, {}).get(name, {})
            part.keep_images(case.run, name, there, {i: told[i] for i in there if i in told})
    return part
