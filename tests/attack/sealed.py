"""Saved models whose description or tensors were changed in both files, the digest with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from . import mutate
from .cases import Case
from .material import Material
from .target import Target, predicted


def cases(material: Material, count: int) -> Iterator[Case]:
    """Every model, its descriptions and tensors changed; `count` of each way over all models."""
    folders = sorted(material.models.iterdir())
    share = -(-count // len(folders))
    for folder in folders:
        told = description(folder)
        sealed = Sealed(folder, material)
        values = mutate.draws(mutate.of_json(told), share, seed=len(folder.name))
        yield from sealed.described("values", values)
        yield from sealed.described("code", evenly(mutate.with_code(told), count))
        yield from sealed.described("sizes", evenly(mutate.with_sizes(told), share))
        yield from sealed.with_tensors(share)


def evenly(edits: list, count: int) -> list:
    """At most so many of a list, drawn evenly."""
    return edits[:: max(1, -(-len(edits) // count))]


class Sealed:
    """A saved model that is changed and sealed again.

    Args:
        folder: The model's.
        material: What is attacked.
    """

    def __init__(self, folder: Path, material: Material):
        self.folder, self.decoy = folder, str(material.decoy)
        self.told = description(folder)
        self.read = partial(predicted, ".", material.pictures)
        self.expected = self.target("values").answer()

    def target(self, way: str) -> Target:
        """The row of one way of changing it."""
        return Target(f"sealed: {way}", self.folder, "model.json", self.read)

    def described(self, way: str, edits: list) -> Iterator[Case]:
        """Changes of the description."""
        target, expected = self.target(way), self.expected
        seal = partial(reseal, json.dumps(self.told), None)
        yield target.case("sealed as it is", seal, expected, reference=True)
        for edit in edits:
            yield target.case(repr(edit), partial(self._change, edit), expected)

    def _change(self, edit: mutate.Edit, file: Path) -> bool:
        reseal(mutate.edited_json(self.told, edit, self.decoy), None, file)
        return mutate.keeps_kind(self.told, edit)

    def with_tensors(self, count: int) -> Iterator[Case]:
        """Changes of the tensors, none of which leaves a true model."""
        target, text = self.target("tensors"), json.dumps(self.told)
        expected = self.expected
        yield target.case("sealed as it is", partial(reseal, text, None), expected, reference=True)
        names = sorted(load_tensors((self.folder / "model.safetensors").read_bytes()))
        edits = [(name, how) for how in TENSORS for name in names]
        for name, how in evenly(edits, count):
            change = partial(reseal, text, partial(_change_tensor, name, how))
            yield target.case(f"{name} {how}", change, expected)


def description(folder: Path) -> dict:
    """The description of a saved model, without the seal."""
    told = json.loads((folder / "model.json").read_text())
    return {key: value for key, value in told.items() if key != "sha256"}


def reseal(text: str, change: Callable[[dict], dict] | None, file: Path) -> bool:
    """Writes a model's description, as text, into both its files and seals them.

    This knows how a model is sealed. Where that changes, "sealed as it is" is refused, and this
    must change with it.
    """
    tensors = load_tensors(file.with_name("model.safetensors").read_bytes())
    tensors = change(tensors) if change else tensors
    data = save_tensors(tensors, metadata={"openset": text})
    file.with_name("model.safetensors").write_bytes(data)
    seal = json.dumps({"sha256": hashlib.sha256(data).hexdigest()})
    whole = f"{text.rstrip()[:-1]}, {seal[1:]}" if text.rstrip().endswith("}") else text
    file.write_text(whole)
    return False


TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
    "all NaN": lambda x: torch.full_like(x, torch.nan) if x.is_floating_point() else None,
    "one NaN": lambda x: _one(x, torch.nan),
    "one infinite": lambda x: _one(x, torch.inf),
    "missing": lambda x: None,
    "empty": lambda x: x[:0] if x.dim() else x[None][:0],
    "one row more": lambda x: torch.cat([x, x[:1]]) if x.dim() else x[None],
    "transposed": lambda x: x.T.contiguous() if x.dim() == 2 and x.shape != x.T.shape else x[None],
    "flat": lambda x: x.flatten(),
    "of another type": lambda x: x.to(torch.float16 if x.is_floating_point() else torch.float32),
    "bool": lambda x: x.bool(),
    "huge": lambda x: torch.zeros(4_000_000),
}
"""Changes of a tensor, none of which leaves a model as it was."""


def _one(x: torch.Tensor, value: float) -> torch.Tensor | None:
    if not x.is_floating_point() or not x.numel():
        return None
    x = x.clone()
    x.view(-1)[0] = value
    return x


def _change_tensor(name: str, how: str, tensors: dict) -> dict:
    changed = TENSORS[how](tensors[name])
    rest = {key: x for key, x in tensors.items() if key != name}
    return rest if changed is None else {**rest, name: changed}
