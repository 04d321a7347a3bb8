"""Files and folders that are either complete or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from openset.errors import FULL

LEFTOVERS = (".*.partial", ".*.old", ".*.lock")
"""Patterns of what a killed write may leave beside its target; the next write sweeps it."""


class Busy(ValueError):
    """Another process is at work on what was asked for."""


@contextmanager
def complete_folder(path: str | os.PathLike[str], owns: Sequence[str] = ()) -> Iterator[Path]:
    """A new folder to write into, which takes its place under `path` only at the end.

    After an error, Ctrl-C, a kill at any moment or a full disk nothing is left of it and what stood
    there is unharmed; where a kill came between the two renames of a replacement, `recovered`
    brings that back. One process at a time writes a folder.

    Args:
        path: Where the folder goes; parents are made.
        owns: Patterns of the file names that an earlier run may have left. A folder that holds
            nothing else is replaced as a whole; by default only an empty one is.

    Raises:
        ValueError: If `path` is a file or holds anything else, or another process writes it.

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
    with _partial(path) as partial:
        partial.mkdir()
        yield partial
        # A library may keep its files to their owner: all get the mode that the system gives.
        for file in (path for path in partial.rglob("*") if path.is_file()):
            file.chmod(partial.stat().st_mode & 0o666)
        refuse_foreign(path, owns)
        _take_place(partial, path)


@contextmanager
def complete_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new file to write, which takes its place under `path`, at once, only at the end.

    It then lies on the disk, so that not even a power cut leaves less than the old or the new.
    """
    path = Path(path).resolve()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    with _partial(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)
        _flush(partial)
        os.replace(partial, path)
    _flush(path.parent)  # The rename itself must reach the disk too.


@contextmanager
def locked(lock: Path, busy: str = "", *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes out of a block by a lock file, which is removed at the block's end.

    Args:
        lock: The lock file.
        busy: What to say if another process is in.
        wait: Whether to wait until it is out instead.

    Raises:
        Busy: If another process is in, a `ValueError`.
    """
    from filelock import FileLock, Timeout  # Slow to import.

    held = FileLock(lock)
    try:
        held.acquire(blocking=wait)
    except Timeout:
        raise Busy(busy) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps an open file, and filelock removes it then.
            lock.unlink()
        held.release()


@contextmanager
def naming(place: str | os.PathLike[str]) -> Iterator[None]:
    """Adds a path to the error of a full disk, if it names none."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and not error.filename:
            error.filename = str(place)
        raise


def recovered(path: str | os.PathLike[str]) -> Path:
    """The path of a folder, brought back if a kill came in the middle of its replacement."""
    path = Path(path)
    older = _beside(path.resolve(), "old")
    if not path.exists() and older.exists():
        # Where another process holds the lock it is about to do the same, or to finish.
        with suppress(ValueError), _locked(path):
            _bring_back(path, older)
    return path


def recovered_folders(parent: Path) -> list[Path]:
    """The folders in a folder, by name, without what a killed write left."""
    for older in parent.glob(".*.old"):
        recovered(parent / older.name[1:-4])
    return sorted(path for path in parent.glob("[!.]*") if path.is_dir())


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """The place beside `path` to write to, for this process alone, swept before and after."""
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise ValueError(f"{parent} is a file, so {path} cannot lie in it; name another place")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, older = _beside(path, "partial"), _beside(path, "old")
    with _locked(path):
        _bring_back(path, older)
        _remove(partial)
        try:
            with naming(path):
                yield partial
        finally:
            _remove(partial)


def _locked(path: Path):
    busy = f"another process is writing {path}; wait for its end, or name another place"
    return locked(_beside(path, "lock"), busy)


def _beside(path: Path, ending: str) -> Path:
    """A hidden name in the same folder, so that a rename stays within one file system."""
    return path.with_name(f".{path.name}.{ending}")


def _bring_back(path: Path, older: Path) -> None:
    if older.exists() and not path.exists():
        os.rename(older, path)
    _remove(older)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Waits until a file or a folder's list of names is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folder, and keeps names safe by itself.
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_foreign(path: Path, owns: Sequence[str]) -> None:
    """Raises where a path is a file, or a folder with other files in it than openset's own."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; name a new or an empty folder")
    found = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    ours = (*owns, *LEFTOVERS)
    foreign = [name for name in found if not any(fnmatch(name, pattern) for pattern in ours)]
    if foreign:
        shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise ValueError(f"{path} already holds {shown}; name a new or an empty folder")


def _take_place(partial: Path, path: Path) -> None:
    """Renames `partial` to `path`; an older folder steps aside and comes back on failure."""
    if not path.exists():
        os.rename(partial, path)
        return
    older = _beside(path, "old")
    os.rename(path, older)
    try:
        os.rename(partial, path)
    except BaseException:
        os.rename(older, path)
        raise
    _remove(older)
