"""Files and folders that are either complete or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from uuid import uuid4


@contextmanager
def complete_folder(path: str | os.PathLike[str], owns: Sequence[str] = ()) -> Iterator[Path]:
    """A new folder to write into, which takes its place under `path` only at the end.

    After an error, Ctrl-C or a full disk nothing is left of it and what stood there is unharmed.

    Args:
        path: Where the folder goes; parents are made.
        owns: Patterns of the file names that an earlier run may have left. A folder that holds
            nothing else is replaced as a whole; by default only an empty one is.

    Raises:
        ValueError: If `path` is a file or holds anything else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with complete_folder(Path(parent, "run")) as folder:
        ...         _ = (folder / "a.txt").write_text("done")
        ...     [file.name for file in Path(parent, "run").iterdir()]
        ['a.txt']
    """
    path = Path(path).resolve()
    refuse_foreign(path, owns)
    _make_parents(path)
    partial = _beside(path)
    try:
        partial.mkdir()
        yield partial
        refuse_foreign(path, owns)
        _take_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def complete_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new file to write, which takes its place under `path`, at once, only at the end.

    It then lies on the disk, so that not even a power cut leaves less than the old or the new.
    """
    path = Path(path).resolve()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    _make_parents(path)
    partial = _beside(path)
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _flush(path.parent)  # The rename itself must reach the disk too.


def _make_parents(path: Path) -> None:
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise ValueError(f"{parent} is a file, so {path} cannot lie in it; name another place")
    path.parent.mkdir(parents=True, exist_ok=True)


def _flush(path: Path) -> None:
    """Waits until a file or a folder's list of names is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(path: Path) -> Path:
    """A hidden name in the same folder, so that a rename stays within one file system."""
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")


def refuse_foreign(path: Path, owns: Sequence[str]) -> None:
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; name a new or an empty folder")
    found = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    foreign = [name for name in found if not any(fnmatch(name, pattern) for pattern in owns)]
    if foreign:
        shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise ValueError(f"{path} already holds {shown}; name a new or an empty folder")


def _take_place(partial: Path, path: Path) -> None:
    """Renames `partial` to `path`; an older folder steps aside and comes back on failure."""
    if not path.exists():
        os.rename(partial, path)
        return
    older = _beside(path)
    os.rename(path, older)
    try:
        os.rename(partial, path)
    except BaseException:
        os.rename(older, path)
        raise
    shutil.rmtree(older, ignore_errors=True)
