"""`python -m tests.attack`: tries the kinds, prints a table; exit status 1 if one is at fault."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from . import KINDS, SLOW, attack
from .table import Tally


def main() -> None:
    """Reads the command line and runs the attack."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, with commas between")
    parser.add_argument("--row", default="", help="only cases whose row or name contains this")
    parser.add_argument("--cases", type=int, default=1000, help="changes of each file")
    parser.add_argument("--each", type=int, help="at most so many cases of each row")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at once")
    parser.add_argument("--slow", action="store_true", help="also the trainings of minutes")
    parser.add_argument("--csv", type=Path, help="a file for the table")
    parser.add_argument("--faults", type=Path, help="a file for each fault")
    parser.add_argument("--show", type=int, default=5, help="so many faults of each row")
    given = parser.parse_args()
    console = Console(width=150)
    asked = [kind.strip().replace(" ", "_") for kind in given.only.split(",")]
    if wrong := set(asked) - {*KINDS, *SLOW}:
        parser.error(f"there is no kind {', '.join(sorted(wrong))}; there are {', '.join(KINDS)}")
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder, console.status("") as status:
        kinds = [k for k in asked if given.slow or k not in SLOW or asked == [k]]
        how = {"row": given.row, "each": given.each, "jobs": given.jobs}
        for tried in attack(Path(folder), kinds, given.cases, **how):
            tally.add(tried)
            status.update(f"{tally.total.total():,} cases; {tried.case.kind}")
    tally.show_faults(console, given.show)
    tally.show(console)
    if given.csv:
        tally.write(given.csv)
    if given.faults:
        tally.write_faults(given.faults)
    sys.exit(0 if tally.held else 1)


if __name__ == "__main__":
    main()
