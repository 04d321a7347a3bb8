"""Files and folders that are either complete or not there at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
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


LARGEST = 2**28
"""Bytes that a JSON file may have."""

DEEPEST = 40
"""Levels that JSON may be nested."""

SEAL = "seal"
"""The key under which a JSON file keeps the digest of the rest."""


def check_ordinary(path: Path) -> None:
    """Raises for a pipe, a device or a folder, which may never end or hold no bytes."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no ordinary file; name one")


def sealed_json(value: dict[str, Any]) -> str:
    """The text of a JSON file that keeps a digest of itself, by which damage is found."""
    plain = json.loads(json.dumps(value))
    return json.dumps({**plain, SEAL: _json_digest(plain)}, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds, without its seal.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it holds anything but one JSON object, or was changed after it was sealed.
    """
    check_ordinary(path)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is larger than {LARGEST} bytes; restore it")
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
        seal = value.pop(SEAL, None)
        if seal is not None and seal != _json_digest(value):
            raise ValueError("it was changed after it was written")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; restore it") from error
    return value


def parse_json(text: str) -> dict[str, Any]:
    """A JSON object of plain, finite values, each key once.

    Raises:
        ValueError: For anything else.

    Example:
        >>> parse_json('{"a": [1, NaN]}')
        Traceback (most recent call last):
        ValueError: NaN is no JSON number
    """
    try:
        value = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
        _check_plain(value)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not a JSON object")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key of {', '.join(found)[:80]} is there twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _check_plain(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(value, str):
        value.encode()  # A lone surrogate could not be written again.
    elif isinstance(value, dict):
        _check_plain([*value, *value.values()], depth)
    elif isinstance(value, list):
        for one in value:
            _check_plain(one, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no JSON number")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("it holds a whole number of more than 64 bits")


def _json_digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, digest: str) -> None:
    """Raises for a file that is not the one whose digest was noted."""
    check_ordinary(path)
    if digest_of(path) != digest:
        raise ValueError(f"{path} was changed after it was written")


PLACE = b'"sha256":"'
"""What stands before the seal in the header of a safetensors file."""

UNSEALED = "0" * 64
"""What stands in the seal's place, under the key "sha256", until a file is sealed."""


def seal(path: Path) -> None:
    """Writes the digest of a safetensors file into it, in place of `UNSEALED` in its metadata."""
    place = _seal_place(path)
    if place is None:
        raise ValueError(f"{path} has no place for a seal; save it with sha256=UNSEALED")
    digest = _digest_without(path, place)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(digest.encode())


def check_seal(path: Path) -> None:
    """Raises for a safetensors file that was changed after it was sealed; an unsealed one passes.

    Raises:
        ValueError: If it was changed, or if its header is longer than the file.
    """
    place = _seal_place(path)
    if place is None:
        return
    with path.open("rb") as file:
        file.seek(place)
        told = file.read(len(UNSEALED))
    if told.decode("latin-1") != _digest_without(path, place):
        raise ValueError("it is damaged, or was changed after it was written")


def _seal_place(path: Path) -> int | None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("it is truncated, or no safetensors file")
        found = file.read(length).find(PLACE)
    return None if found < 0 else 8 + found + len(PLACE)


def _digest_without(path: Path, place: int) -> str:
    """The digest of a file, with `UNSEALED` in the place of its seal."""
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(place) + UNSEALED.encode())
        file.seek(place + len(UNSEALED))
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
