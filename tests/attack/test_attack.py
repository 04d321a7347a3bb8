"""One case of every row of the attack, none of which may be at fault."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from . import KINDS, SLOW
from .cases import BAD

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Counts of a short attack by kind of case, and its faults with their details."""
    folder = tmp_path_factory.mktemp("attack")
    arguments = ["--each", "1", "--cases", "20", "--faults", folder / "faults.csv", "--show", "0"]
    table = ["--csv", folder / "table.csv"]
    command = [sys.executable, "-m", "tests.attack", *map(str, [*arguments, *table])]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode in (0, 1), ran.stderr
    with open(folder / "table.csv", newline="") as file:
        counts = list(csv.DictReader(file))
    with open(folder / "faults.csv", newline="") as file:
        faults = list(csv.DictReader(file))
    return counts, faults


def of_kind(records, kind):
    return [r for r in records if r["kind"].partition(":")[0].replace(" ", "_") == kind]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SLOW])
def test_holds(kind, rows):
    counts, faults = rows
    tried = of_kind(counts, kind)
    assert tried, "no case of this kind was tried"
    assert of_kind(faults, kind) == []
    assert sum(int(row[outcome]) for row in tried for outcome in BAD) == 0
