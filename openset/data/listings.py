"""Tables of image paths and labels: CSV, JSON lines, and columns of paths in any other table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openset.data.columns import LABEL_NAMES, is_image, named_column
from openset.data.decode import shown
from openset.data.folders import SPLIT_FOLDERS, SUFFIXES, file_table, image_files
from openset.data.source import split_in

if TYPE_CHECKING:
    from datasets import Dataset

PATH_NAMES = (
    "path", "file", "file_name", "filename", "filepath", "file_path", "image_path", "img_path",
    "image", "img", "image_file", "image_id", "id",
)  # fmt: skip
"""Columns taken as paths where no column holds images, the first of them that there is."""


MASK_NAMES = ("mask", "mask_path", "annotation", "segmentation_mask")
"""Columns taken as paths of masks."""


SPLIT_NAMES = ("split", "subset", "partition")
"""Columns that may name the split of each row."""


Columns = dict[str, list[Any]]


def read_listings(folder: Path) -> dict[str, Dataset]:
    """The tables of paths in a folder or in its split folders, by split; none if there is none.

    A row's split is what its column `split` says, or the first folder of its path, or else the
    file's name. `metadata.csv`, as Hugging Face has it, is one of them.
    """
    splits = [p for p in folder.iterdir() if p.is_dir() and p.name.lower() in SPLIT_FOLDERS]
    files = [f for place in (folder, *sorted(splits)) for f in sorted(place.iterdir())]
    found: dict[str, list[Dataset]] = {}
    for file in files:
        if file.suffix.lower() in READERS and file.is_file():
            columns = READERS[file.suffix.lower()](file)
            if named_column(columns, PATH_NAMES):
                for split, table in _tables(columns, file, folder).items():
                    found.setdefault(split, []).append(table)
    return {split: _joined(tables) for split, tables in found.items()}


def read_listing(file: Path) -> dict[str, Dataset]:
    """One table of paths and labels, by split.

    Raises:
        ValueError: If no column holds paths, or none of them leads to a file.
    """
    columns = READERS[file.suffix.lower()](file)
    if named_column(columns, PATH_NAMES) is None:
        raise ValueError(
            f"{file} has no column of image paths (columns: {', '.join(columns)}); name it path, "
            "and that of the classes label"
        )
    return _tables(columns, file, file.parent)


def with_images(table: Dataset, folder: Path, name: str) -> Dataset:
    """A table whose column of paths, if it has no other images, holds image files."""
    if any(is_image(feature) for feature in table.features.values()):
        return table
    texts = [c for c in table.column_names if "string" in str(table.features[c])]
    column = named_column(texts, PATH_NAMES)
    if column is None:
        return table
    files = located(table[:][column], folder, name)
    return _side_by_side(file_table(files), table.remove_columns(column))


def _tables(columns: Columns, file: Path, root: Path) -> dict[str, Dataset]:
    path = columns[named_column(columns, PATH_NAMES) or ""]
    images = located(path, file.parent, shown(file))
    mask = named_column(columns, MASK_NAMES)
    masks = located(columns[mask], file.parent, shown(file)) if mask else []
    label = named_column(columns, LABEL_NAMES)
    splits = _splits(columns, path, file, root)
    tables = {}
    for split in dict.fromkeys(splits):
        rows = [i for i, each in enumerate(splits) if each == split]
        table = file_table(images[i] for i in rows)
        if mask:
            table = _side_by_side(table, file_table((masks[i] for i in rows), "mask"))
        elif label:
            table = table.add_column("label", _alike([columns[label][i] for i in rows]))
        tables[split] = table
    return tables


def _alike(values: list[Any]) -> list[Any]:
    """Values of one type, as a column must have: as they are, or as text where types differ."""
    types = {type(value) for value in values if value is not None}
    return values if len(types) <= 1 else [None if v is None else str(v) for v in values]


def _splits(columns: Columns, paths: Sequence[Any], file: Path, root: Path) -> list[str]:
    """The split of each row: as a column says, as the paths do, or as the file's name does."""
    column = named_column(columns, SPLIT_NAMES)
    for said in (columns[column] if column else [], [Path(str(p)).parts[0] for p in paths if p]):
        splits = [split_in(str(each)) for each in said]
        if len(splits) == len(paths) and None not in splits:
            return [str(split) for split in splits]
    folder = file.parent.name if file.parent != root else ""
    return [split_in(file.stem) or split_in(folder) or "train"] * len(paths)


def located(names: Iterable[Any], folder: Path, listing: str) -> list[Path]:
    """The files that names in a table stand for: paths, or names or stems of files below a folder.

    What is nowhere stays as it is named, so that reading it says so, or leaves it out.

    Raises:
        ValueError: If a name is missing, or none of them is that of a file.
    """
    known: dict[str, Path | None] = {}
    found, missing = [], 0
    for row, name in enumerate(names, 1):
        if not name:
            raise ValueError(f"{listing} names no image in row {row}; fill or remove it")
        path = folder / str(name)
        if not path.is_file() and not path.exists():
            known = known or _by_name(folder)
            match = known.get(Path(str(name).replace("\\", "/")).as_posix())
            missing += match is None
            path = match or path
        found.append(path)
    if found and missing == len(found):
        raise ValueError(
            f"{listing} names no file that is there, the first is {shown(found[0])}; give paths "
            f"from {shown(folder)} on"
        )
    return found


def _by_name(folder: Path) -> dict[str, Path | None]:
    """The image files below a folder by path, name and stem; None where two have one name."""
    known: dict[str, Path | None] = {"": None}
    for file in image_files(folder):
        for key in {file.relative_to(folder).as_posix(), file.name, file.stem}:
            known[key] = None if key in known else file
    return known


def read_csv(file: Path) -> Columns:
    """The columns of a CSV file, all as text; the first of `,`, `;` and tab in its head divides."""
    try:
        text = file.read_text("utf-8-sig")
        head = text.partition("\n")[0]
        mark = max(",;\t", key=head.count)
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {shown(file)} as a CSV file in UTF-8: {error}") from error
    if not rows:
        return {}
    names = [name.strip() for name in rows[0]]
    if any(Path(name).suffix.lower() in SUFFIXES for name in names):
        names = ["path", "label", *map(str, range(2, len(names)))][: len(names)]  # No heading.
    else:
        rows = rows[1:]
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise ValueError(
                f"{shown(file)} has {len(row)} cells in row {number} but {len(names)} columns; "
                "mend the row"
            )
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def read_json_lines(file: Path) -> Columns:
    """The columns of a file with one JSON object a line; None where an object lacks a key."""
    rows = []
    try:
        for number, line in enumerate(file.read_text("utf-8-sig").split("\n"), 1):
            if line.strip():
                rows.append(json.loads(line))
                if not isinstance(rows[-1], dict):
                    raise ValueError(f"line {number} is no JSON object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {shown(file)} as JSON lines: {error}") from error
    names = dict.fromkeys(key for row in rows for key in row)
    return {name: [row.get(name) for row in rows] for name in names}


READERS: dict[str, Callable[[Path], Columns]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
}
"""The reader of each ending."""


def _joined(tables: list[Dataset]) -> Dataset:
    from datasets import concatenate_datasets

    return tables[0] if len(tables) == 1 else concatenate_datasets(tables)


def _side_by_side(images: Dataset, others: Dataset) -> Dataset:
    from datasets import concatenate_datasets

    taken = [c for c in others.column_names if c in images.column_names]
    others = others.remove_columns(taken)
    return concatenate_datasets([images, others], axis=1) if others.column_names else images
