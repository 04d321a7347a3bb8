"""Image files in, one record each out: label or unknown, score, threshold."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import torch

from openset.activations import UNKNOWN
from openset.data import ImageSet, load_files
from openset.extractors.extract import stream
from openset.files import complete_file
from openset.model.open_set import OpenSet

FORMATS = (".csv", ".jsonl", ".parquet")


COLUMNS = ("path", "label", "score", "threshold")
"""What is said of every image."""


def open_images(
    model: OpenSet, places: Iterable[str | Path], *, skip_bad: bool = False
) -> ImageSet:
    """The images that files, folders and globs name, brought to what the model takes.

    Raises:
        ValueError: For a place without images, a file that is none (unless `skip_bad`), or a model
            that does not say what it takes.
    """
    if model.adapter is None:
        raise ValueError(
            "this model does not say how an image file becomes its input; "
            "save it with OpenSet(…, adapter=Adapter(size, channels))"
        )
    return load_files(places, model.adapter, skip_bad=skip_bad)


def predict(
    model: OpenSet, images: ImageSet, *, probabilities: bool = False, batch_size: int = 256
) -> Iterator[dict[str, Any]]:
    """One record an image: path, label or "unknown", score and the threshold that applied.

    A detector whose paper shows a confidence, such as VIB, adds it.

    Args:
        model: A calibrated model.
        images: From `open_images`.
        probabilities: Whether to add the softmax probability of each known class, as `p_NAME`.
        batch_size: Images per pass.
    """
    paths = iter(images.paths)
    for seen in stream(model.extractor, images, batch_size):
        if seen.grid:
            raise ValueError("this model labels pixels; take openset.model.maps.write_maps")
        with torch.no_grad():
            label, score, limits = (x.cpu() for x in model.judge(seen))
        shown = model.detector.confidence(score)
        shares = seen.logits.softmax(1)
        names = model.classes or [str(c) for c in range(shares.shape[1])]
        for i in range(len(label)):
            record = {
                "path": next(paths),
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
    """
    from openset.model.maps import (
        labels_pixels,  # Which takes long to import.
        write_maps,
    )

    found = open_images(model, places, skip_bad=skip_bad)
    records = predict(model, found, probabilities=probabilities)
    said = []
    if labels_pixels(model):
        said.append(f"maps of {write_maps(model, found, out)} images: {out}")
    elif out is None:
        write_csv(records, sys.stdout)
    else:
        said.append(f"{write(records, out)} images: {out}")
    said += [f"skipped: {reason}" for reason in found.skipped]
    return said + [f"{len(found.skipped)} files skipped"] * bool(found.skipped)


def write(records: Iterable[dict[str, Any]], path: Path) -> int:
    """Writes records as CSV, JSON lines or Parquet, by the file's ending; returns their number.

    The file is complete or absent, and names its columns even where there is no record.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"cannot write {path.name}; end the name in {', '.join(FORMATS)}")
    with complete_file(path) as partial:
        if path.suffix == ".parquet":
            return _write_parquet(records, partial)
        with partial.open("w", newline="", encoding="utf-8") as file:
            return (write_csv if path.suffix == ".csv" else _write_lines)(records, file)


def write_csv(records: Iterable[dict[str, Any]], file: TextIO) -> int:
    """Writes records as CSV to an open text file; returns their number."""
    records = iter(records)
    first = next(records, None)
    writer = csv.DictWriter(file, first or COLUMNS, lineterminator="\n")
    writer.writeheader()
    count = 0
    for record in chain([first] if first else [], records):
        writer.writerow(record)
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
