"""An attack on openset that anyone can run: `make attack`.

Every kind of fault that an audit found is a file here that yields cases. Each case runs in a
process of its own, watched for what it answers, runs, takes and writes; the table says how many of
each kind were right or refused in one sentence, and what the others did.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cases import Case
    from .runner import Tried

KINDS = (
    *("files", "sealed", "values", "threads", "labels", "taps", "pixels", "thresholds"),
    *("odd_labels", "resources", "lost_work", "names", "objectives"),
)
"""The kinds, each a file here; those of `SLOW` only where they are asked for."""

SLOW = ("objectives",)


def attack(
    folder: Path,
    kinds: Sequence[str],
    count: int,
    *,
    row: str = "",
    each: int | None = None,
    jobs: int = 2,
) -> Iterator[Tried]:
    """Tries some kinds.

    Args:
        folder: An empty folder to work in.
        kinds: Names of `KINDS`.
        count: Changes of each file; kinds with a number of cases of their own take their share.
        row: Only cases whose row or name contains this.
        each: At most so many cases a row, after what they are measured by.
        jobs: Cases at once.
    """
    os.environ["HF_HOME"] = str(folder / "hub")
    os.environ["OMP_NUM_THREADS"] = "1"
    from .material import Material, prepare_imports
    from .runner import run

    prepare_imports()
    material = Material(folder / "material")
    material.expose()
    material.train()

    def chosen() -> Iterator[Case]:
        for kind in kinds:
            cases = import_module(f".{kind}", __package__).cases(material, count)
            yield from _some(cases, row, each)

    yield from run(chosen(), folder / "cases", jobs)


def _some(cases: Iterable[Case], row: str, each: int | None) -> Iterator[Case]:
    """The cases that are wanted, each after what it is measured by."""
    rows: Counter[str] = Counter()
    references: dict[str, Case] = {}
    for case in cases:
        if case.reference:
            references[case.measure] = case
        elif row in f"{case.kind} {case.name}" and (each is None or rows[case.kind] < each):
            if case.measure in references:
                yield references.pop(case.measure)
            rows[case.kind] += 1
            yield case
