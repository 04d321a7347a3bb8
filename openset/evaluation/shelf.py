"""What a folder of results holds beside its table: tensors, each once, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openset.scoring.held_out import HeldOut


class Shelf:
    """Tensors under numbered keys; equal ones, such as labels of several records, lie once."""

    def __init__(self):
        self.tensors: dict[str, Tensor] = {}
        self._keys: dict[tuple[Any, ...], str] = {}

    def put(self, x: Tensor) -> str:
        """Returns the key under which a tensor is saved."""
        # A copy, because safetensors refuses tensors that are views of one memory.
        x = x.detach().cpu().clone(memory_format=torch.contiguous_format)
        digest = sha256(x.flatten().view(torch.uint8).numpy().data).digest()
        key = self._keys.setdefault((digest, x.dtype, x.shape), str(len(self._keys)))
        self.tensors[key] = x
        return key

    def put_all(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Returns the keys of several tensors by their names."""
        return {name: self.put(x) for name, x in tensors.items()}


class Album:
    """Pictures as numbered files of a folder."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0

    def put(self, png: bytes) -> str:
        """Writes a picture and returns the name of its file."""
        self.count += 1
        file = self.folder / f"figure-{self.count}.png"
        file.write_bytes(png)
        return file.name


def held_out_of(tensors: Mapping[str, Tensor]) -> HeldOut:
    """The held-out scores whose buffers were put on a shelf; refuses what does not fit."""
    found = HeldOut()
    found.keep(**{name: torch.empty_like(x) for name, x in tensors.items()})
    found.load_state_dict(dict(tensors))
    return found
