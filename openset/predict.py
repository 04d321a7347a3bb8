"""Image files in, one record each out: label or unknown, score, threshold."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
from PIL import Image
from torch import Tensor

from openset.activations import UNKNOWN
from openset.folders import complete_file
from openset.model import OpenSet
from openset.store import device_of, finite

FORMATS = (".csv", ".jsonl", ".parquet")


def find_images(places: Sequence[str]) -> list[Path]:
    """Image files named by paths, folders (searched whole) and glob patterns, each once, in order.

    Raises:
        ValueError: For a place that names no image.
    """
    suffixes = Image.registered_extensions()
    found: list[Path] = []
    for place in places:
        path = Path(place)
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes)
        elif path.is_file():
            files = [path]
        else:
            files = [Path(file) for file in sorted(glob.glob(place, recursive=True))]
        if not files:
            raise ValueError(f"no image at {place!r}; give image files, a folder of them or a glob")
        found += files
    return list(dict.fromkeys(found))


@dataclass
class Predictions:
    """Records of image files, made as they are read.

    Args:
        model: A calibrated model with its adapter and class names.
        files: Image files.
        skip_bad: Whether to leave out files that cannot be read, instead of stopping.
        probabilities: Whether to add each known class's probability.
        batch_size: Images per pass.
        skipped: What was left out, as sentences; filled while the records are read.
    """

    model: OpenSet
    files: Sequence[Path]
    skip_bad: bool = False
    probabilities: bool = False
    batch_size: int = 64
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self):
        if self.model.adapter is None:
            raise ValueError(
                "this model does not say how an image file becomes its input; "
                "save it with OpenSet(…, adapter=Adapter(size, channels))"
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.skipped.clear()
        for files, images in self._batches():
            yield from self._records(files, images)

    def _batches(self) -> Iterator[tuple[list[Path], Tensor]]:
        files: list[Path] = []
        images: list[Tensor] = []
        for file in self.files:
            image = self._open(file)
            if image is None:
                continue
            files.append(file)
            images.append(image)
            if len(files) == self.batch_size:
                yield files, torch.stack(images)
                files, images = [], []
        if files:
            yield files, torch.stack(images)

    def _open(self, file: Path) -> Tensor | None:
        assert self.model.adapter is not None
        try:
            return self.model.adapter.open(file)
        except ValueError as error:
            if not self.skip_bad:
                raise ValueError(f"{error}; --skip-bad leaves such files out") from error
            self.skipped.append(str(error))
            return None

    def _records(self, files: list[Path], images: Tensor) -> Iterator[dict[str, Any]]:
        model = self.model
        with torch.no_grad():
            activations = model.extractor(images.to(device_of(model)).float() / 255)
            finite(activations.logits, "the network's logits")
            label, score = model.decide(activations)
            probability = activations.logits.softmax(1)
        limit = model.get_buffer("limit")
        predicted = model.detector.class_scores(activations).argmax(1)
        limits = limit[predicted] if len(limit) > 1 else limit.expand(len(label))
        for i, file in enumerate(files):
            record = {
                "path": str(file),
                "label": self._class(int(label[i])),
                "score": float(score[i]),
                "threshold": float(limits[i]),
            }
            if self.probabilities:
                shares = probability[i].tolist()
                record |= {f"p_{self._class(c)}": p for c, p in enumerate(shares)}
            yield record

    def _class(self, label: int) -> str:
        if label == UNKNOWN:
            return "unknown"
        return str(label) if self.model.classes is None else self.model.classes[label]


def write(records: Iterable[dict[str, Any]], path: Path) -> int:
    """Writes records as CSV, JSON lines or Parquet, by the file's ending; returns their number.

    The file is complete or absent.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"cannot write {path.name}; end the name in {', '.join(FORMATS)}")
    with complete_file(path) as partial:
        if path.suffix == ".parquet":
            return _write_parquet(records, partial)
        with partial.open("w", newline="", encoding="utf-8") as file:
            return write_csv(records, file) if path.suffix == ".csv" else _write_lines(records, file)


def write_csv(records: Iterable[dict[str, Any]], file: TextIO) -> int:
    """Writes records as CSV to an open text file; returns their number."""
    count = 0
    writer = None
    for count, record in enumerate(records, start=1):
        if writer is None:
            writer = csv.DictWriter(file, list(record))
            writer.writeheader()
        writer.writerow(record)
    return count


def _write_lines(records: Iterable[dict[str, Any]], file: Any) -> int:
    count = 0
    for count, record in enumerate(records, start=1):
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return count


def _write_parquet(records: Iterable[dict[str, Any]], path: Path) -> int:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    table = arrow.Table.from_pylist(list(records))
    parquet.write_table(table, path)
    return table.num_rows
