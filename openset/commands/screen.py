"""Tables and messages on the screen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from openset.processes import here
from openset.text import printable

UNBOUNDED = 240
"""Width in characters of a line where no screen bounds it."""


class Screen(Console):
    """A console that shows names as they are: it obeys neither markup nor escape sequences."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, highlight=False, emoji=False, soft_wrap=True, **options)

    def render_str(self, text: str, *_: Any, **options: Any) -> Text:
        """Every text passes here, of tables too."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)

    def on_broken_pipe(self) -> None:
        """Leaves it to `main` to end quietly."""
        raise BrokenPipeError


screen = Screen(stderr=True)


def say(text: str) -> None:
    """Prints a line beside the output; of several processes of one job the first does."""
    if here().first:
        screen.print(text)


def show_results(table: Table, out: Path) -> None:
    """Prints a table of results, and where they are."""
    if here().first:
        show(table)
    say(f"results: {out / 'results.csv'}, report: {out / 'report.html'}")


def show(table: Table) -> None:
    """Prints a table; whole, where the output is a file or a pipe and no width is set."""
    console = Screen()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = UNBOUNDED
    console.print(table, soft_wrap=False)
