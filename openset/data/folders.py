"""Folders of image files as tables of paths."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


SUFFIXES = frozenset(
    ".png .jpg .jpeg .bmp .gif .tif .tiff .webp .ppm .pgm .pbm .jp2 .avif".split()  # noqa: SIM905
)
"""Files with other endings are not taken for images."""


SPLIT_FOLDERS = frozenset({"train", "training", "valid", "val", "validation", "test", "testing"})


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, hidden ones left out, in the order of their names."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """The image files that paths, folders and globs name, in their order.

    Raises:
        ValueError: For a path that does not exist, and for folders and globs without images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files = image_files(path)
        elif path.exists():
            files = [path]
        else:
            files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        if not files:
            raise ValueError(f"no image at {path}; give image files, folders of them, or globs")
        found += files
    if not found:
        raise ValueError("no images given; give image files, folders of them, or globs")
    return found


def file_table(files: Iterable[Path]) -> Dataset:
    """Image files as a table of paths; none is opened."""
    from datasets import Dataset, Features, Image

    return Dataset.from_dict({"image": [str(f) for f in files]}, Features({"image": Image()}))


def read_image_folder(folder: Path) -> dict[str, Dataset]:
    """A folder of images, of class folders, or of split folders with either, as tables.

    Files are listed, not opened. Classes are the names of the folders in alphabetical order.

    Raises:
        ValueError: If there is no image.
    """
    splits = {path.name: path for path in _folders(folder) if path.name.lower() in SPLIT_FOLDERS}
    splits = splits or {"train": folder}
    classes = sorted({c.name for split in splits.values() for c in _folders(split)})
    tables = {name.lower(): _table(path, classes) for name, path in splits.items()}
    if not any(len(table) for table in tables.values()):
        raise ValueError(
            f"no images in {folder}; expected image files ({', '.join(sorted(SUFFIXES))}), one "
            "folder of them per class, or parquet files"
        )
    return tables


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _table(folder: Path, classes: list[str]) -> Dataset:
    from datasets import ClassLabel

    if not classes:
        return file_table(image_files(folder))
    stray = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    if stray:
        raise ValueError(
            f"{stray[0]} lies beside the class folders of {folder}; move it into one of them"
        )
    rows = [
        (path, c)
        for c, name in enumerate(classes)
        if (folder / name).is_dir()
        for path in image_files(folder / name)
    ]
    labels = [c for _, c in rows]
    table = file_table(path for path, _ in rows)
    return table.add_column("label", labels, feature=ClassLabel(names=classes))
