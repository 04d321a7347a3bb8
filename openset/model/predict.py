"""Image files in, one record each out: label or unknown, score, threshold."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import torch

from openset.activations import UNKNOWN
from openset.data import load_files
from openset.data.loaders import images_at_once
from openset.data.readable import Readable
from openset.extractors.extract import stream
from openset.files import complete_file
from openset.model.open_set import OpenSet
from openset.text import csv_line, encodable, printable

FORMATS = (".csv", ".jsonl", ".parquet")


COLUMNS = ("path", "label", "score", "threshold")
"""What is said of every image."""


NAMED = 3
"""At most so many broken files are named in an error."""


def open_images(model: OpenSet, places: Iterable[str | Path], batch_size: int = 256) -> Readable:
    """The images that files, folders and globs name, brought to what the model takes.

    Raises:
        ValueError: For a place without images, or a model that does not say what it takes.
    """
    if model.adapter is None:
        raise ValueError(
            "this model does not say how an image file becomes its input; "
            "save it with OpenSet(…, adapter=Adapter(size, channels))"
        )
    return Readable(load_files(places, model.adapter), batch_size)


def predict(
    model: OpenSet, images: Readable, *, probabilities: bool = False
) -> Iterator[dict[str, Any]]:
    """One record an image: path, label or "unknown", score and the threshold that applied.

    Images that cannot be read have none; `images.skipped` says why. A detector whose paper shows a
    confidence, such as VIB, adds it.

    Args:
        model: A calibrated model.
        images: From `open_images`.
        probabilities: Whether to add the softmax probability of each known class, as `p_NAME`.
    """
    paths = images.images.paths
    for seen in stream(model.extractor, images):
        if seen.grid:
            raise ValueError("this model labels pixels; take openset.model.maps.write_maps")
        assert seen.labels is not None
        with torch.no_grad():
            label, score, limits = (x.cpu() for x in model.judge(seen))
        shown = model.detector.confidence(score)
        shares = seen.logits.softmax(1)
        names = model.classes or [str(c) for c in range(shares.shape[1])]
        for i, position in enumerate(seen.labels.tolist()):
            record = {
                "path": paths[position],
                "label": "unknown" if label[i] == UNKNOWN else names[int(label[i])],
                "score": float(score[i]),
                "threshold": float(limits[i]),
            }
            if shown is not None:
                record["confidence"] = float(shown[i])
            if probabilities:
                record |= {f"p_{names[c]}": share for c, share in enumerate(shares[i].tolist())}
            yield record


def predict_files(
    model: OpenSet,
    places: Iterable[str | Path],
    out: Path | None = None,
    *,
    skip_bad: bool = False,
    probabilities: bool = False,
) -> list[str]:
    """Answers for all images of files, folders and globs; see `openset predict`.

    Returns:
        What to say on the screen, in lines; the records themselves go to `out` or to stdout.

    Raises:
        ValueError: If files cannot be read, unless `skip_bad`; the others are answered before.
    """
    from openset.model.maps import (
        labels_pixels,  # Which takes long to import.
        write_maps,
    )

    found = open_images(model, places)
    if labels_pixels(model):
        found.batch_size = images_at_once(found.images)
        count = write_maps(model, found, out)
    else:
        records = predict(model, found, probabilities=probabilities)
        count = print_csv(records) if out is None else write(records, out)
    if found.skipped and not skip_bad:
        raise ValueError(_unread(found, count, out))
    said = [] if out is None else [f"{count} images: {out}"]
    said += [f"skipped: {reason}" for reason in found.skipped]
    return said + [f"{len(found.skipped)} files skipped"] * bool(found.skipped)


def _unread(found: Readable, count: int, out: Path | None) -> str:
    bad = len(found.skipped)
    reasons = [reason.partition(";")[0] for reason in found.skipped[:NAMED]]
    more = f"; and {bad - NAMED} more" if bad > NAMED else ""
    place = "" if out is None else f" in {out}"
    return (
        f"{bad} of {len(found)} files have no answer: {'; '.join(reasons)}{more}; "
        f"the other {count} are answered{place}; --skip-bad does without the bad ones"
    )


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
    texts = ("path", "label")
    kinds = [(x, arrow.string() if x in texts else arrow.float64()) for x in (*rows, COLUMNS)[0]]
    table = arrow.Table.from_pylist(rows, arrow.schema(kinds))
    parquet.write_table(table, path)
    return table.num_rows
