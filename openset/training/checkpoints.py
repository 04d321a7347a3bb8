"""Files of a training run, from which it can go on after a kill -9 at any moment."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Resampling
from torch import Tensor, nn

from openset.data.adapter import to_pil
from openset.files import (
    LEFTOVERS,
    check_ordinary,
    complete_file,
    locked,
    naming,
    read_json,
    save_tensors,
    sealed_json,
)

PICTURES = "pictures"
"""Folder, within a run, of the pictures that the report shows of the training."""


@contextmanager
def run_folder(
    path: str | os.PathLike[str] | None, description: dict[str, Any], resume: bool = False
) -> Iterator[RunFolder | None]:
    """The folder of one training run, for this process alone; None where none is kept.

    Raises:
        ValueError: As `RunFolder`, and if another process trains in it.
    """
    if path is None:
        yield None
        return
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    busy = f"another process is training in {path}; wait for its end, or choose another folder"
    with locked(path / ".lock", busy):
        yield RunFolder(path, description, resume)


class RunFolder:
    """A folder with one training run.

    `training.json` says what the run is, `checkpoint.pt` holds its state, `log.jsonl` one line per
    epoch and `network.safetensors` the result. Each file is complete or absent.

    Args:
        path: The folder; made if it is not there.
        description: What decides the weights, as plain values; a run is resumed only under the
            same description.
        resume: Whether to go on with the run that the folder holds; a folder without one is begun.

    Raises:
        ValueError: If the folder holds a run that is not, or cannot be, resumed.
    """

    def __init__(
        self, path: str | os.PathLike[str], description: dict[str, Any], resume: bool = False
    ):
        self.path = Path(path)
        description = json.loads(json.dumps(description, default=_plain))
        before = self.read_description()
        if before is not None and not resume:
            raise ValueError(
                f"{self.path} already holds a run; resume it, or choose another folder"
            )
        if before is not None:
            self._refuse_other(before, description)
            for pattern in LEFTOVERS:  # Of a kill -9 in the middle of a write.
                for left in self.path.rglob(pattern.replace(".*", ".?*")):
                    left.unlink()
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._write("training.json", sealed_json(description).encode())

    def read_description(self) -> dict[str, Any] | None:
        """The content of `training.json`, or None if there is no run here."""
        file = self.path / "training.json"
        if not file.exists():
            return None
        return read_json(file)

    def _refuse_other(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        old, new = dict(_flat(before)), dict(_flat(now))
        differing = [
            f"{key} was {old.get(key)!r}, now {new.get(key)!r}"
            for key in {**old, **new}
            if old.get(key) != new.get(key)
        ]
        if differing:
            raise ValueError(
                f"cannot resume {self.path}, which holds a different run: {'; '.join(differing)}"
            )

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None; what was logged after it is dropped from the log."""
        file = self.path / "checkpoint.pt"
        if not file.exists():
            self._cut_log(0)
            return None
        check_ordinary(file)
        first, _, content = file.read_bytes().partition(b"\n")
        try:
            if first != _seal(content):
                raise ValueError("its seal is broken")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            self._cut_log(state["log_bytes"])
        except Exception as error:  # A damaged pickle raises whatever its reader stumbles on.
            raise ValueError(
                f"{file} is no checkpoint, or damaged, or of an earlier openset; "
                "begin again in another folder"
            ) from error
        if _digest(self._log()) != state["log_digest"]:
            raise ValueError(f"{self.path / 'log.jsonl'} is damaged; begin again in another folder")
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint in one step."""
        log, buffer = self._log(), io.BytesIO()
        torch.save({**state, "log_bytes": len(log), "log_digest": _digest(log)}, buffer)
        content = buffer.getvalue()
        self._write("checkpoint.pt", _seal(content) + b"\n" + content)

    def log(self, record: dict[str, Any]) -> None:
        """Adds a line to the log; it counts once the next checkpoint is saved."""
        log = self.path / "log.jsonl"
        with naming(log), open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _log(self) -> bytes:
        log = self.path / "log.jsonl"
        return log.read_bytes() if log.exists() else b""

    def _cut_log(self, size: int) -> None:
        log = self.path / "log.jsonl"
        if log.exists() and log.stat().st_size > size:
            os.truncate(log, size)

    def save_network(self, network: nn.Module) -> None:
        """Writes the network to keep as `network.safetensors`."""
        tensors = {name: x.detach().cpu() for name, x in network.state_dict().items()}
        with complete_file(self.path / "network.safetensors") as partial:
            save_tensors(tensors, partial)

    def save_pictures(self, pictures: Mapping[str, Tensor]) -> None:
        """Writes uint8 images `[C, H, W]` as PNG files under their titles, twice as large."""
        for title, image in pictures.items():
            small = to_pil(image)
            large = small.resize((2 * small.width, 2 * small.height), Resampling.NEAREST)
            buffer = io.BytesIO()
            large.save(buffer, format="PNG", optimize=True)
            self._write(f"{PICTURES}/{title}.png", buffer.getbuffer())

    def _write(self, name: str, content: bytes | memoryview) -> None:
        with complete_file(self.path / name) as partial:
            partial.write_bytes(content)


def read_pictures(run: Path) -> dict[str, bytes]:
    """The pictures of a training, as PNG bytes by title."""
    files = sorted((run / PICTURES).glob("*.png"))
    return {file.stem: file.read_bytes() for file in files}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _seal(content: bytes) -> bytes:
    """The first line of a checkpoint, by which damage to the rest is found."""
    return b"openset checkpoint " + _digest(content).encode()


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _plain(value: Any) -> Any:
    """A stand-in for what JSON cannot hold: a network's spec, or the name of what it is."""
    if isinstance(value, nn.Module):
        return getattr(value, "spec", None) or type(value).__name__
    return getattr(value, "__qualname__", None) or str(value)
