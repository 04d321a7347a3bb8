"""Pictures as a cluster reads them, and the comparison of rows, for the tests."""

import json
import tarfile

import numpy as np
import pyarrow as arrow
import pytest
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits

from openset.model.records import read

COUNT = 60
"""Pictures in a lake."""


def fill(root):
    """The same pictures as files, as Parquet of several files and groups, and as tar shards."""
    files = []
    for i, image in enumerate(load_digits().images[:COUNT]):
        file = root / "files" / f"{i:03}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.uint8(image * 15.9)).save(file)
        files.append(file)
    for kind in ("parquet", "tar"):
        (root / kind).mkdir()
    write_parquet(root / "parquet" / "a.parquet", files[:40], 7)
    write_parquet(root / "parquet" / "b.parquet", files[40:], 20)
    for k in range(6):
        with tarfile.open(root / "tar" / f"{k}.tar", "w") as shard:
            for file in files[10 * k : 10 * k + 10]:
                shard.add(file, file.name)
    return root


def write_parquet(place, files, rows):
    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    parquet.write_table(arrow.table({"image": cells}), place, row_group_size=rows)


def gathered(out):
    """The rows of all parts in their order, and what the manifest says."""
    told = json.loads((out / "_manifest.json").read_text())
    assert told["complete"] is True
    rows = [row for name in told["parts"] for row in read(out / name)]
    assert told["rows"] == len(rows) == parquet.read_table(out).num_rows
    return rows, told


def same(rows, others, paths=True):
    """Whether rows are equal, numbers to rounding; by default their paths too."""
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            if isinstance(value, str):
                assert value == other[key] or (key == "path" and not paths), key
            else:
                assert value == pytest.approx(other[key], rel=1e-5, abs=1e-6), key
