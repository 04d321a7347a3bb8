"""One figure a row: the long table of results as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from openset.text import csv_line, plain_cell


@dataclass(frozen=True)
class Case:
    """One fitted detector of one run; a run is what shares a network and its known data.

    Args:
        protocol: Name of the protocol, or empty.
        seed: The run's seed.
        network: Name of the network.
        objective: Name of the training method.
        detector: Name of the detector with its settings, such as `gemos:components=4`.
        known: Name of the known data.
        tuned_on: Names of the data that the detector's settings were chosen on, joined by " + ";
            empty for settings that nobody chose by looking.
    """

    protocol: str = ""
    seed: int = 0
    network: str = ""
    objective: str = ""
    detector: str = ""
    known: str = ""
    tuned_on: str = field(default="", kw_only=True)

    @property
    def run(self) -> Case:
        """The same without a detector: what all detectors of a run share."""
        return replace(self, detector="", tuned_on="")


@dataclass(frozen=True)
class Row(Case):
    """One figure.

    Args:
        unknown: Name of the unknown data; empty where the metric needs none, such as accuracy.
        metric: A name of `openset.evaluation.metrics.METRICS`, or of a pixel metric.
        value: What was measured; NaN if only the published figure is known.
        paper: The published figure, or None.
    """

    unknown: str = ""
    metric: str = ""
    value: float = math.nan
    paper: float | None = None


COLUMNS = (*(f.name for f in fields(Row) if f.name != "tuned_on"), "tuned_on")
"""The columns of `results.csv`, in their order; the last only where a detector was tuned."""


def write_csv(rows: Iterable[Row], path: str | Path) -> None:
    """Writes the rows; floats keep every digit, and a missing published figure is empty."""
    rows = list(rows)
    columns = COLUMNS if any(row.tuned_on for row in rows) else COLUMNS[:-1]
    with open(path, "w", newline="", encoding="utf-8") as file:
        file.write(csv_line(columns))
        file.writelines(csv_line(getattr(row, name) for name in columns) for row in rows)


def read_csv(path: str | Path) -> list[Row]:
    """The rows of a file that `write_csv` wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) not in (COLUMNS, COLUMNS[:-1]):
            raise ValueError(f"{path}: the first line must be {','.join(COLUMNS[:-1])}")
        return [_row(record, f"{path}, line {reader.line_num}") for record in reader]


def _row(record: dict[str, str], where: str) -> Row:
    try:
        number = {"seed": int(record["seed"]), "value": float(record["value"])}
        paper = float(record["paper"]) if record["paper"] else None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: seed, value and paper must be numbers; {error}") from error
    texts = {name: plain_cell(text) for name, text in record.items()}
    return Row(**{**texts, **number, "paper": paper})  # pyright: ignore[reportArgumentType]
