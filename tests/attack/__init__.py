"""An attack on openset that anyone can run: `make attack`.

Every kind of fault that an audit found is a file here that yields cases. Each case runs in a
process of its own, watched for what it answers, runs, takes and writes; the table says how many of
each kind were right or refused in one sentence, and what the others did.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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
    folder: Path, kinds: Sequence[str], count: int, *, row: str = "", jobs: int = 2
) -> Iterator[Tried]:
    """Tries some kinds.

    Args:
        folder: An empty folder to work in.
        kinds: Names of `KINDS`.
        count: Changes of each file; kinds with a number of cases of their own take their share.
        row: Only rows whose name contains this.
        jobs: Cases at once.
    """
    os.environ["HF_HOME"] = str(folder / "hub")
    os.environ["OMP_NUM_THREADS"] = "1"
    from .material import Material, prepare_imports
    from .runner import run

    prepare_imports()
    material = Material(folder / "material")
    material.expose()

    def chosen() -> Iterator[Case]:
        for kind in kinds:
            module = import_module(f".{kind}", __package__)
            yield from (case for case in module.cases(material, count) if row in case.kind)

    yield from run(chosen(), folder / "cases", jobs)
