"""Activations on disk, and how they get there: one pass over the images for every detector."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from safetensors import safe_open
from torch import Tensor

from openset.activations import Activations
from openset.files import complete_file, read_json, read_tensors, save_tensors, sealed_json
from openset.processes import here
from openset.spec import Range, call


class Store:
    """Activations in a folder of safetensors shards, one batch each; read as often as needed.

    Only the shard being read is in memory, so a fit from a store does not grow with the number of
    images. A store that was not written to its end is refused.

    Args:
        folder: Where the shards are, or will be.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from openset import Activations
        >>> folder = tempfile.mkdtemp()
        >>> store = Store(folder).write([Activations(torch.zeros(n, 3)) for n in (2, 1)])
        >>> [len(batch) for batch in store], len(store)
        ([2, 1], 3)
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)

    def write(self, activations: Iterable[Activations]) -> Store:
        """Writes batches as they come; the store counts as complete only at the end."""
        self._finish(self._write(enumerate(activations)))
        return self

    def collect(self, numbered: Iterable[tuple[int, Activations]]) -> Store:
        """Writes a store of which each process brings some batches, by their numbers from 0."""
        group = here()
        brought = group.gather(self._write(numbered))
        group.once(lambda: self._finish({i: n for its in brought for i, n in its.items()}))
        return self

    def _write(self, numbered: Iterable[tuple[int, Activations]]) -> dict[int, int]:
        """Writes batches as shards, and returns how many samples each has."""
        if self.complete:
            raise ValueError(f"{self.folder} already holds a store; name another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        counts = {}
        for number, batch in numbered:
            _save(batch, self._shard(number))
            counts[number] = len(batch)
        return counts

    def _finish(self, counts: dict[int, int]) -> None:
        with complete_file(self.folder / "index.json") as partial:
            partial.write_text(sealed_json({"counts": [counts[i] for i in range(len(counts))]}))

    def _shard(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    @property
    def complete(self) -> bool:
        """Whether the store was written to its end."""
        return (self.folder / "index.json").exists()

    @property
    def counts(self) -> list[int]:
        """Samples in each shard."""
        if not self.complete:
            raise ValueError(
                f"{self.folder} holds no complete store; extract the activations again"
            )
        index = call(f"the store {self.folder}", _Index, read_json(self.folder / "index.json"))
        return index.counts

    def __len__(self) -> int:
        return sum(self.counts)

    def __iter__(self) -> Iterator[Activations]:
        for i, count in enumerate(self.counts):
            batch = _load(self._shard(i))
            if len(batch) != count:
                raise ValueError(f"shard {i} of {self.folder} holds {len(batch)} rows, not {count}")
            yield batch


@dataclass(frozen=True)
class _Index:
    counts: list[Annotated[int, Range(least=0)]]


def _save(batch: Activations, path: Path) -> None:
    tensors = {"logits": batch.logits}
    tensors |= {f"features.{name}": x for name, x in batch.features.items()}
    tensors |= {f"extra.{name}": x for name, x in batch.extra.items()}
    if batch.labels is not None:
        tensors["labels"] = batch.labels
    if batch.head is not None:
        tensors["head.weight"], tensors["head.bias"] = batch.head
    # safetensors sorts its keys, but the layers' order decides how they are stacked.
    order = {"order": json.dumps(list(tensors))}
    save_tensors(tensors, path, order)


def _load(path: Path) -> Activations:
    found = read_tensors(path)
    with safe_open(path, "pt") as file:
        order = json.loads((file.metadata() or {}).get("order", "[]"))
    tensors = {key: found[key] for key in order}

    def group(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}

    head = group("head.")
    return Activations(
        tensors["logits"],
        group("features."),
        tensors.get("labels"),
        group("extra."),
        (head["weight"], head["bias"]) if head else None,
    )
