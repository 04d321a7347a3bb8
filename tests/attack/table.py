"""Results of an attack, as a table and as CSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .cases import BAD, OUTCOMES
from .runner import Tried


class Tally:
    """Outcomes by row, and the first faults of each."""

    def __init__(self):
        self.counts: dict[str, Counter[str]] = {}
        self.faults: dict[str, list[Tried]] = {}

    def add(self, tried: Tried) -> None:
        """Counts one case."""
        self.counts.setdefault(tried.case.kind, Counter())[tried.outcome] += 1
        if tried.outcome in BAD:
            self.faults.setdefault(tried.case.kind, []).append(tried)

    @property
    def held(self) -> bool:
        """Whether everything was right or refused."""
        return not self.faults

    def show(self, console: Console) -> None:
        """Prints the table."""
        table = Table(title="attack")
        for i, name in enumerate(("kind", "cases", *OUTCOMES)):
            table.add_column(name, justify="right" if i else "left")
        for kind, counts in [*self.counts.items(), ("all", self.total)]:
            cells = [str(counts[outcome] or "") for outcome in OUTCOMES]
            table.add_row(kind, str(counts.total()), *cells)
        console.print(table)

    @property
    def total(self) -> Counter[str]:
        """All rows together."""
        return sum(self.counts.values(), Counter())

    def show_faults(self, console: Console, most: int) -> None:
        """Prints the first faults of each row."""
        for kind, faults in self.faults.items():
            for tried in faults[:most]:
                text = f"{kind} | {tried.case.name} | {tried.outcome}: {tried.detail.strip()}"
                console.print(text, markup=False, highlight=False, soft_wrap=True)

    def write(self, path: Path) -> None:
        """Writes the table as CSV."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("kind", "cases", *OUTCOMES))
            for kind, counts in self.counts.items():
                writer.writerow((kind, counts.total(), *(counts[x] for x in OUTCOMES)))

    def write_faults(self, path: Path, tried: Iterable[Tried] = ()) -> None:
        """Writes every fault as CSV."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("kind", "case", "outcome", "detail"))
            for faults in self.faults.values():
                for one in faults:
                    writer.writerow((one.case.kind, one.case.name, one.outcome, one.detail))
