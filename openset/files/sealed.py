"""JSON and tensors that keep a digest of themselves, read with suspicion."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 2**28
"""Bytes that a JSON file may have at the most."""

DEEPEST = 40
"""Levels that JSON may be nested at the most."""

SEAL = "seal"
"""The key under which a JSON file keeps the digest of the rest."""


def check_ordinary(path: Path) -> None:
    """Raises for a pipe, a device or a folder, which may never end or hold no bytes."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no ordinary file; name one")


def check_small(path: Path) -> None:
    """Raises for what is no ordinary file, or too large for a text that people may read."""
    check_ordinary(path)
    if path.exists() and path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is larger than {LARGEST} bytes; restore it")


def sealed_json(value: dict[str, Any]) -> str:
    """The text of a JSON file that keeps a digest of itself, by which damage is found."""
    plain = json.loads(json.dumps(value))
    return json.dumps({**plain, SEAL: _json_digest(plain)}, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file, checks its seal and leaves the seal out.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it holds anything but one JSON object, or was changed after it was sealed.
    """
    check_small(path)
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


PLACE = b'"sha256":"'
"""Bytes directly before the seal in the header of a safetensors file."""

UNSEALED = "0" * 64
"""Placeholder for the seal, under the key "sha256", until a file is sealed."""


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Writes tensors of any layout, which may share memory, as sealed safetensors.

    Raises:
        ValueError: For what is no plain tensor, such as the weights of an int8 network.
        OSError: If there is no room, naming the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    for name, x in tensors.items():
        if not hasattr(x, "is_quantized") or x.is_quantized:
            raise ValueError(
                f"{name} is quantised, which safetensors cannot hold; "
                "save the network as it was before, and quantise it after loading"
            )
    try:
        save_file(_unshared(tensors), path, {**(metadata or {}), "sha256": UNSEALED})
        _seal(path)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors, with copies of those that share memory."""
    seen: set[int] = set()
    plain = {}
    for name, x in tensors.items():
        x = x.contiguous()
        shared = x.data_ptr() in seen and x.numel() > 0
        plain[name] = x.clone() if shared else x
        seen.add(x.data_ptr())
    return plain


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file.

    Raises:
        ValueError: If it is no such file, is damaged, or was changed after it was sealed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_ordinary(path)
    try:
        _check_seal(path)
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"cannot read tensors from {path}: {error}; restore it") from error


def header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor in a `.safetensors` file, without reading them."""
    from safetensors import SafetensorError, safe_open

    check_ordinary(path)
    try:
        _seal_place(path)
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (x.get_dtype(), tuple(x.get_shape())) for name, x in slices.items()}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"cannot read tensors from {path}: {error}; restore it") from error


def _seal(path: Path) -> None:
    """Writes the digest of a safetensors file into it, in place of `UNSEALED` in its metadata."""
    place = _seal_place(path)
    digest = _digest_without(path, place or 0)
    with path.open("r+b") as file:
        file.seek(place or 0)
        file.write(digest.encode())


def _check_seal(path: Path) -> None:
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
        if not 0 < length <= path.stat().st_size - 8:
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
