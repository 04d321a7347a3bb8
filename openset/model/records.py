"""Records of answers on the screen and in files: CSV, JSON lines and Parquet."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from openset.files import complete_file
from openset.model.predict import COLUMNS
from openset.text import csv_line, encodable, printable

FORMATS = (".csv", ".jsonl", ".parquet")

TEXTS = ("path", "label", "nearest")
"""The columns that hold text; the others hold numbers."""


def write(records: Iterable[dict[str, Any]], path: Path) -> int:
    r"""Writes records as CSV, JSON lines or Parquet, by the file's ending; returns their number.

    The file is complete or absent, and names its columns even where there is no record. Bytes of a
    file's name that are not UTF-8 are written as `\xff`.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"cannot write {path.name}; end the name in {', '.join(FORMATS)}")
    records = spelled(records, encodable)
    with complete_file(path) as partial:
        if path.suffix == ".parquet":
            return _write_parquet(records, partial)
        with partial.open("w", newline="", encoding="utf-8") as file:
            return (_write_csv if path.suffix == ".csv" else _write_lines)(records, file)


def print_csv(records: Iterable[dict[str, Any]]) -> int:
    """Prints records as CSV as they come; a terminal gets no escape sequence of a file's name."""
    spell = printable if sys.stdout.isatty() else encodable
    return _write_csv(spelled(records, spell), sys.stdout)


def spelled(
    records: Iterable[dict[str, Any]], spell: Callable[[str], str]
) -> Iterator[dict[str, Any]]:
    """Records whose texts, and names of columns, are spelled otherwise."""
    for record in records:
        yield {spell(key): spell(x) if isinstance(x, str) else x for key, x in record.items()}


def _write_csv(records: Iterator[dict[str, Any]], file: TextIO) -> int:
    first = next(records, None)
    file.write(csv_line(first or COLUMNS))
    count = 0
    for record in chain([first] if first else [], records):
        file.write(csv_line(record.values()))
        count += 1
    return count


def _write_lines(records: Iterable[dict[str, Any]], file: TextIO) -> int:
    count = 0
    for record in records:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        count += 1
    return count


def _write_parquet(records: Iterable[dict[str, Any]], path: Path) -> int:
    import pyarrow as arrow
    from pyarrow import parquet

    rows = list(records)
    kinds = [(x, arrow.string() if x in TEXTS else arrow.float64()) for x in (*rows, COLUMNS)[0]]
    table = arrow.Table.from_pylist(rows, arrow.schema(kinds))
    parquet.write_table(table, path)
    return table.num_rows
