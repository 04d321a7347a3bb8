"""Trainings with the command line's own defaults, which must end with a network that has learned.

They take minutes, so they run only with `--slow`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .cases import Case, command
from .material import Material

FLOOR = 0.9
"""Of the accuracy on six digits."""

OBJECTIVES = ("cross-entropy", "bin", "binc", "vib", "viby")


def cases(material: Material, count: int) -> Iterator[Case]:
    """Every classifier's objective under three seeds."""
    for objective in OBJECTIVES:
        for seed in range(3):
            attempt = partial(learns, objective, seed)
            name = f"{objective}, seed {seed}"
            yield Case("objectives", name, attempt, refusable=False, seconds=1200.0)


def learns(objective: str, seed: int) -> str | None:
    """Accuracy on the test digits after twenty epochs."""
    how = ("--objective", objective, "--network", "cnn", "--epochs", 20, "--seed", seed)
    command("train", "digits", "--known-classes", "0-5", *how, "--out", "run")
    accuracy = json.loads(Path("run/run.json").read_text())["accuracy"]["test"]
    return None if accuracy >= FLOOR else f"accuracy {accuracy:.1%}"
