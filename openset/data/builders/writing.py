"""Images and label maps as parquet files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

ROWS = 32
"""Images that are written at once."""


VOID = 255


class Pair(NamedTuple):
    """An image file's content and name, and its mask uint8 `[H, W]`."""

    image: bytes
    name: str
    mask: np.ndarray


Splits = Mapping[str, Iterable[Pair]]


def _mask(file: Path) -> np.ndarray:
    if not file.is_file():
        raise ValueError(f"{file} is missing; unpack the publisher's archive again")
    with Image.open(file) as picture:
        return np.array(picture, dtype=np.uint8)


def _png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def _write(folder: Path, split: str, pairs: Iterable[Pair]) -> int:
    """Writes one split as parquet, a few rows at a time; returns the number of images."""
    import pyarrow as arrow
    from pyarrow import parquet

    cell = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    schema = arrow.schema([("image", cell), ("mask", cell)])
    count, rows = 0, []
    file = folder / f"{split}-00000-of-00001.parquet"
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for image, name, mask in pairs:
            rows.append(
                {
                    "image": {"bytes": image, "path": name},
                    "mask": {"bytes": _png(mask), "path": name},
                }
            )
            count += 1
            if len(rows) == ROWS:
                writer.write_table(arrow.Table.from_pylist(rows, schema))
                rows = []
        if rows:
            writer.write_table(arrow.Table.from_pylist(rows, schema))
    return count
