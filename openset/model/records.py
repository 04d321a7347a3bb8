"""Records of answers on the screen and in files, written and read: CSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from openset.files import complete_file
from openset.model.predict import COLUMNS
from openset.text import csv_line, encodable, plain_cell, printable

FORMATS = (".csv", ".jsonl", ".parquet")

TEXTS = ("path", "name", "label", "nearest")
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


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file that `write` wrote; of CSV all columns but texts are numbers again.

    Raises:
        ValueError: If it holds no such records.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"cannot read {path}; give a file in {', '.join(FORMATS)}")
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return parquet.read_table(path).to_pylist()
        with path.open(newline="", encoding="utf-8") as file:
            if path.suffix == ".jsonl":
                return [_object(line) for line in file]
            rows = csv.DictReader(file)
            if not rows.fieldnames:
                raise ValueError("it is empty, without even the names of the columns")
            return [_numbered(record) for record in rows]
    except (ValueError, TypeError, RecursionError, csv.Error) as error:
        raise ValueError(f"{path} holds no answers of openset predict: {error}") from error


def _object(line: str) -> dict[str, Any]:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError(f"a line holds a {type(value).__name__}, not an object")
    return value


def _numbered(record: dict[str, str]) -> dict[str, Any]:
    if None in record or None in record.values():
        raise ValueError("a line has more or fewer cells than the first")

    def value(key: str, cell: str) -> Any:
        if not cell:
            return None
        return plain_cell(cell) if key in TEXTS else float(cell)

    return {plain_cell(key): value(key, cell) for key, cell in record.items()}


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


def table_of(rows: Sequence[dict[str, Any]], columns: Iterable[str] = COLUMNS) -> Any:
    """Records as a table of Arrow, text or numbers; the columns count where there is no record."""
    import pyarrow as arrow

    names = rows[0] if rows else columns
    kinds = [(x, arrow.string() if x in TEXTS else arrow.float64()) for x in names]
    return arrow.Table.from_pylist([*rows], arrow.schema(kinds))


def _write_parquet(records: Iterable[dict[str, Any]], path: Path) -> int:
    from pyarrow import parquet

    table = table_of([*records])
    parquet.write_table(table, path)
    return table.num_rows
