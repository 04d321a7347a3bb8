"""Folders of image files as tables of paths."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from openset.data.classes import natural
from openset.data.decode import check_file, shown

if TYPE_CHECKING:
    from datasets import Dataset


SUFFIXES = frozenset(
    ".png .jpg .jpeg .bmp .gif .tif .tiff .webp .ppm .pgm .pbm .jp2 .avif".split()  # noqa: SIM905
)
"""Endings of the files that are taken for images."""


SPLIT_FOLDERS = frozenset({"train", "training", "valid", "val", "validation", "test", "testing"})


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, hidden ones left out, in the order of their names."""
    return sorted(_images_in(folder))


def _images_in(folder: Path) -> Iterator[Path]:
    return (
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """The image files that paths, folders and globs name, in their order.

    Raises:
        ValueError: For a path that does not exist or is no file to read, and for folders and globs
            without images.
    """
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        if name != "" and path.is_dir():
            files = image_files(path)
        elif name != "" and not path.exists():
            files = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        else:
            check_file(name)
            files = [path]
        if not files:
            raise ValueError(
                f"no image at {shown(path)}; give image files, folders of them, or globs"
            )
        found += files
    if not found:
        raise ValueError("no images given; give image files, folders of them, or globs")
    return found


def file_table(files: Iterable[Path], column: str = "image") -> Dataset:
    """Image files as a table of paths; none is opened."""
    from datasets import Dataset, Features, Value

    # As bytes, since a name need not be UTF-8, which Arrow's strings must.
    cells = [{"bytes": None, "path": os.fsencode(file)} for file in files]
    features = Features({column: {"bytes": Value("binary"), "path": Value("binary")}})
    return Dataset.from_dict({column: cells}, features)


def read_image_folder(folder: Path) -> dict[str, Dataset]:
    """A folder of images, of class folders, or of split folders with either, as tables.

    Files are listed, not opened. Classes are the names of the folders in natural order: 2 comes
    before 10.

    Raises:
        ValueError: If there is no image.
    """
    splits = _split_folders(folder) or {"train": folder}
    names = {c.name for split in splits.values() for c in _folders_with_images(split)}
    classes = sorted(names, key=natural)
    tables = {name: _table(path, classes) for name, path in splits.items()}
    if not any(len(table) for table in tables.values()):
        raise ValueError(
            f"no images in {shown(folder)}; expected image files ({', '.join(sorted(SUFFIXES))}), "
            "one folder of them per class, a table of their paths and labels, or parquet files"
        )
    return tables


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders of splits by name; none where one called `train` or `test` is a class.

    It is a class where others than splits lie beside it and its images lie directly in it.

    Raises:
        ValueError: Where that cannot be told.
    """
    folders = _folders_with_images(folder)
    splits = {path.name.lower(): path for path in folders if path.name.lower() in SPLIT_FOLDERS}
    others = [path.name for path in folders if path.name.lower() not in SPLIT_FOLDERS]
    if not splits or not others:
        return splits
    nested = [path.name for path in splits.values() if _folders_with_images(path)]
    if not nested:
        return {}
    raise ValueError(
        f"{shown(folder)} holds {', '.join(nested)} with folders of images inside, as splits have, "
        f"beside {', '.join(others[:3])}; move away what is no split, or, if these are classes, "
        "put the images of each directly into its folder"
    )


def _folders_with_images(folder: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return sorted(path for path in found if any(_images_in(path)))


def _table(folder: Path, classes: list[str]) -> Dataset:
    from datasets import ClassLabel

    if not classes:
        return file_table(image_files(folder))
    stray = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    if stray:
        raise ValueError(
            f"{shown(stray[0])} lies beside the class folders of {shown(folder)}; move it into one "
            "of them"
        )
    rows = [
        (path, c)
        for c, name in enumerate(classes)
        if (folder / name).is_dir()
        for path in image_files(folder / name)
    ]
    labels = [c for _, c in rows]
    table = file_table(path for path, _ in rows)
    return table.add_column("label", labels, feature=ClassLabel(names=[*map(shown, classes)]))
