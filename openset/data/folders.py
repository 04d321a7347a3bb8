"""Folders of image files as tables of paths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

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


def read_image_folder(folder: Path) -> DatasetDict:
    """A folder of images, of class folders, or of split folders with either, as tables.

    Files are listed, not opened. Classes are the names of the folders in alphabetical order.

    Raises:
        ValueError: If there is no image.
    """
    from datasets import DatasetDict

    splits = {path.name: path for path in _folders(folder) if path.name.lower() in SPLIT_FOLDERS}
    splits = splits or {"train": folder}
    classes = sorted({c.name for split in splits.values() for c in _folders(split)})
    tables = {name.lower(): _table(path, classes) for name, path in splits.items()}
    if not any(len(table) for table in tables.values()):
        raise ValueError(
            f"no images in {folder}; expected image files ({', '.join(sorted(SUFFIXES))}), one "
            "folder of them per class, or parquet files"
        )
    return DatasetDict(tables)


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _table(folder: Path, classes: list[str]) -> Dataset:
    from datasets import ClassLabel, Dataset, Features, Image

    if not classes:
        paths = [str(path) for path in image_files(folder)]
        return Dataset.from_dict({"image": paths}, Features({"image": Image()}))
    stray = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    if stray:
        raise ValueError(
            f"{stray[0]} lies beside the class folders of {folder}; move it into one of them"
        )
    rows = [
        (str(path), c)
        for c, name in enumerate(classes)
        if (folder / name).is_dir()
        for path in image_files(folder / name)
    ]
    features = Features({"image": Image(), "label": ClassLabel(names=classes)})
    columns = {"image": [path for path, _ in rows], "label": [c for _, c in rows]}
    return Dataset.from_dict(columns, features)
