"""Trainings with the command line's own defaults, which must end with a network that has learned.

They take minutes, so they run only with `--slow`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from openset.objectives import OBJECTIVES

from .cases import Case, Refused, command
from .material import Material

FLOOR = 0.9
"""Of the accuracy on six digits."""


def cases(material: Material, count: int) -> Iterator[Case]:
    """Every objective that classifies, under three seeds."""
    for objective in [name for name, kind in OBJECTIVES.items() if kind.classifies]:
        for seed in range(3):
            attempt = partial(learns, objective, seed)
            yield Case("objectives", f"{objective}, seed {seed}", attempt, seconds=1200.0)


def learns(objective: str, seed: int) -> str | None:
    """Accuracy on the test digits after twenty epochs."""
    how = ("--objective", objective, "--network", "cnn", "--epochs", 20, "--seed", seed)
    try:
        command("train", "digits", "--known-classes", "0-5", *how, "--out", "run")
    except Refused as error:
        if "loss" in str(error):  # The defaults are openset's own.
            return str(error)
        raise
    accuracy = json.loads(Path("run/run.json").read_text())["accuracy"]["test"]
    return None if accuracy >= FLOOR else f"accuracy {accuracy:.1%}"
