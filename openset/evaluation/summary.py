"""The long table of results: one row a figure, as CSV, averaged over seeds, and on screen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from rich.table import Table
from rich.text import Text

from openset.evaluation.metrics import METRICS, find
from openset.evaluation.rows import Case, Row


@dataclass(frozen=True)
class Cell:
    """One figure over all its seeds.

    Args:
        mean: Mean over the seeds; NaN if nothing was measured.
        deviation: Sample standard deviation over the seeds; None for a single one.
        seeds: Number of seeds.
        paper: The published figure, or None.
    """

    mean: float
    deviation: float | None = None
    seeds: int = 1
    paper: float | None = None

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        return f"{self.mean:.3f}" + ("" if self.deviation is None else f" ± {self.deviation:.3f}")


def mean_over_seeds(rows: Iterable[Row]) -> dict[Row, Cell]:
    """Mean, deviation and number of seeds of every figure.

    Returns:
        The row with seed 0, value NaN and no published figure, as key, to its cell, in the order
        in which the rows came.
    """
    groups: dict[Row, list[Row]] = {}
    for row in rows:
        groups.setdefault(replace(row, seed=0, value=math.nan, paper=None), []).append(row)
    return {key: _cell(group) for key, group in groups.items()}


def _cell(rows: Sequence[Row]) -> Cell:
    values = [row.value for row in rows if not math.isnan(row.value)]
    paper = next((row.paper for row in rows if row.paper is not None), None)
    deviation = stdev(values) if len(values) > 1 else None
    return Cell(fmean(values) if values else math.nan, deviation, len(values), paper)


@dataclass(frozen=True)
class Column:
    """A column of the summary: one metric on one pair of known and unknown data."""

    protocol: str
    known: str
    unknown: str
    metric: str


MEAN = "mean"
"""Name, in the unknown set's place, of the columns that average over several unknown sets."""


WIDE = 4
"""The most columns of figures that the table on the screen sets side by side."""


class Summary:
    """Detectors down, unknown sets and metrics across; best figures marked, the paper's beside.

    Args:
        rows: Rows of any number of seeds, networks and protocols.
        metrics: Metrics to show, in this order.
    """

    def __init__(self, rows: Iterable[Row], metrics: Sequence[str]):
        for metric in metrics:
            find(metric)
        self.metrics = tuple(metrics)
        self.cells: dict[tuple[Case, Column], Cell] = {}
        for row, cell in mean_over_seeds(r for r in rows if r.metric in metrics).items():
            line = Case("", 0, row.network, row.objective, row.detector, tuned_on=row.tuned_on)
            column = Column(row.protocol, row.known, row.unknown, row.metric)
            self.cells[line, column] = cell
        self.lines = list(dict.fromkeys(line for line, _ in self.cells))
        self._add_means()
        self.columns = self._ordered()
        self.best = {pair for column in self.columns for pair in self._best(column)}

    def label(self, line: Case) -> str:
        """The detector, what it was tuned on, and objective and network where lines differ."""
        differing = [
            getattr(line, part)
            for part in ("objective", "network")
            if len({getattr(other, part) for other in self.lines} - {""}) > 1
        ]
        tuned = f"tuned on {line.tuned_on}" if line.tuned_on else ""
        return " · ".join(filter(None, [line.detector, tuned, *differing]))

    def group(self, column: Column) -> str:
        """The unknown set, with known set and protocol where they differ between columns."""
        unknown = "mean over unknown" if column.unknown == MEAN else column.unknown
        if len({other.known for other in self.columns}) > 1:
            unknown = f"{column.known} → {unknown}" if unknown else column.known
        if len({other.protocol for other in self.columns}) > 1:
            unknown = f"{column.protocol}: {unknown}"
        return unknown or "known"

    def table(self) -> Table:
        """The summary as a table for the screen; the best figure of a column is bold.

        With more than `WIDE` columns the unknown sets stand below each other.
        """
        conventions = ", ".join(t for m in self.metrics if "(" in (t := METRICS[m].title))
        if len(self.columns) <= WIDE:
            heads = [f"{self.group(c)}\n{METRICS[c.metric].short_head}" for c in self.columns]
            table = _empty_table(heads, conventions)
            self._add_lines(table, self.columns)
            return table
        table = _empty_table([METRICS[m].short_head for m in self.metrics], conventions)
        for title in dict.fromkeys(map(self.group, self.columns)):
            of_group = {c.metric: c for c in self.columns if self.group(c) == title}
            table.add_row(Text(title, style="italic"))
            self._add_lines(table, [of_group.get(metric) for metric in self.metrics])
            table.add_section()
        return table

    def _add_lines(self, table: Table, columns: Sequence[Column | None]) -> None:
        for line in self.lines:
            cells = [self._text(line, column) for column in columns]
            if any(cells):
                table.add_row(Text(self.label(line)), *cells)

    def _text(self, line: Case, column: Column | None) -> Text:
        cell = self.cells.get((line, column)) if column else None
        if cell is None:
            return Text("")
        text = Text(str(cell), style="bold" if (line, column) in self.best else "")
        if cell.paper is not None:
            text.append(f" (paper {cell.paper:.3g})", style="not bold dim")
        return text

    def _add_means(self) -> None:
        """Averages over the unknown sets of a known set, for the lines that have all of them."""
        families: dict[Column, list[Column]] = {}
        for column in dict.fromkeys(column for _, column in self.cells):
            if column.unknown and not column.unknown.startswith(MEAN):
                families.setdefault(replace(column, unknown=MEAN), []).append(column)
        for mean, columns in families.items():
            for line in self.lines if len(columns) > 1 else []:
                found = [self.cells.get((line, column)) for column in columns]
                if all(found):
                    self.cells[line, mean] = Cell(fmean(c.mean for c in found if c))

    def _ordered(self) -> list[Column]:
        """Figures of the known data first, then set by set as they came, the means last."""
        columns = list(dict.fromkeys(column for _, column in self.cells))
        sets = list(dict.fromkeys((c.protocol, c.known, c.unknown) for c in columns))
        sets.sort(key=lambda s: (bool(s[2]), s[2] == MEAN))

        def place(column: Column) -> tuple[int, int]:
            found = sets.index((column.protocol, column.known, column.unknown))
            return found, self.metrics.index(column.metric)

        return sorted(columns, key=place)

    def _best(self, column: Column) -> list[tuple[Case, Column]]:
        """The lines whose figure is best as it is printed; none where all are equal."""
        found = {
            line: round(self.cells[line, column].mean, 3)
            for line in self.lines
            if (line, column) in self.cells and not math.isnan(self.cells[line, column].mean)
        }
        if len(set(found.values())) < 2:
            return []
        best = (max if METRICS[column.metric].higher_is_better else min)(found.values())
        return [(line, column) for line, value in found.items() if value == best]


def _empty_table(heads: Iterable[str], conventions: str) -> Table:
    table = Table(caption=conventions or None, caption_justify="left")
    table.add_column("detector", min_width=12, overflow="fold")
    for head in heads:
        table.add_column(Text(head, overflow="fold"), justify="right", min_width=7, no_wrap=True)
    return table
