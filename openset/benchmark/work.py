"""The work folder of a benchmark: locked, swept, and written beside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openset.evaluation.results import Results
from openset.files import complete_folder, locked
from openset.runs.evaluate import write_results

PARTIAL = ".results-"
"""The first letters of the folder in which results are written before they take their place."""


def write_beside(results: Results, out: Path) -> None:
    """Writes the results into a folder that holds the work folder too, file by file."""
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(PARTIAL + "*"):
        shutil.rmtree(left)
    fresh = out / f"{PARTIAL}new"
    with complete_folder(fresh) as partial:
        write_results(results, partial)
    for file in sorted(fresh.iterdir()):
        os.replace(file, out / file.name)
    fresh.rmdir()


@contextmanager
def at_work(work: Path) -> Iterator[None]:
    """Keeps a second benchmark out of the work folder, and sweeps what a killed one left."""
    work.mkdir(parents=True, exist_ok=True)
    with locked(work / ".lock", f"another benchmark is at work in {work}; wait for its end"):
        for left in (*work.glob(".activations-*"), *work.glob("evaluations/*/.*.partial")):
            shutil.rmtree(left, ignore_errors=True)
        yield


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
