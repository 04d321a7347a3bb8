"""Tables and messages on the screen."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

screen = Console(stderr=True)


def show_results(table: Table, out: Path) -> None:
    show(table)
    say(f"results: {out / 'results.csv'}, report: {out / 'report.html'}")


def say(text: str) -> None:
    screen.print(text, highlight=False, soft_wrap=True, markup=False)


UNBOUNDED = 240
"""Characters a line may have where no screen bounds it."""


def show(table: Table) -> None:
    """Prints a table; whole, where the output is a file or a pipe and no width is set."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = UNBOUNDED
    console.print(table)
