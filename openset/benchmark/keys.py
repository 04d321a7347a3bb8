"""The keys of trained networks and evaluations: a hash of all that decides them."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from openset.data import Data, ImageSet
from openset.evaluation.stamp import versions
from openset.runs.run import build_detector


class Fingerprints:
    """Short hashes of image sets; the pixels of each data string are read once."""

    def __init__(self):
        self.pixels: dict[tuple[str, str], str] = {}

    def of_data(self, data: Data, name: str) -> dict[str, str]:
        """Of each part of the known data."""
        parts = {"train": data.train, "valid": data.valid, "test": data.test}
        return {part: self.of(part_set, name, part) for part, part_set in parts.items()}

    def of(self, source: ImageSet, name: str, part: str = "") -> str:
        """Of one set: which images in which order, with which labels, adapted how."""
        if (name, part) not in self.pixels:
            masks = source.masks.fingerprint if source.masks is not None else ""
            self.pixels[name, part] = source.pixels.fingerprint + masks
        labels = source.values if source.dense else source.labels
        settings = source.adapter.settings()
        chosen = [x.contiguous().numpy().tobytes() for x in (source.indices, labels)]
        return key_of(self.pixels[name, part], settings, *(hashed(x) for x in chosen))


def evaluation_key(
    training: str,
    weights: str,
    unknown: dict[str, str],
    detector: str,
    network: nn.Module,
    settings: dict[str, Any],
    tuning: dict[str, str] | None = None,
    companions: Mapping[str, nn.Module] | None = None,
) -> str:
    """The key of one detector's evaluation: all that decides its figures.

    Args:
        training: The network's `training_key`, which covers the known data.
        weights: Digest of the trained weights' file.
        unknown: Fingerprints of the unknown sets by name.
        detector: The detector with its settings.
        network: The network, for the code it runs.
        settings: What else the figures depend on: metrics, accepted share, names.
        tuning: Fingerprints of the unknown sets that it is tuned on; None if it is not tuned.
        companions: Networks that the detector may take, for the code they run.
    """
    parts = [build_detector(detector, **(companions or {})), network]
    kinds = {type(module) for part in parts for module in part.modules()}
    code = code_digest(kinds)
    key = [training, weights, unknown, detector, settings, code, versions()]
    return key_of(*key) if tuning is None else key_of(*key, tuning, _code("openset.model.tune"))


def code_digest(kinds: Iterable[type]) -> str:
    """A hash of openset's own code that these classes use, directly or not."""
    found: set[str] = set()
    for module in ("openset.evaluation.evaluate", "openset.model.fit"):
        _collect(module, found)
    for kind in kinds:
        for base in kind.__mro__:
            _collect(base.__module__, found)
    return key_of(*(_code(name) for name in sorted(found)))


def _collect(name: str, found: set[str]) -> None:
    """Adds a module of openset and those that its functions and classes come from."""
    if not name.startswith("openset.") or name in found:
        return
    found.add(name)
    for value in list(vars(sys.modules[name]).values()):
        if not isinstance(value, ModuleType):
            _collect(getattr(value, "__module__", None) or "", found)


def _code(name: str) -> str:
    return hashed(Path(_file(name)).read_bytes())


def _file(name: str) -> str:
    file = sys.modules[name].__file__
    assert file is not None
    return file


def key_of(*parts: Any) -> str:
    """A short hash of plain values."""
    return hashed(json.dumps(parts, sort_keys=True).encode())


def hashed(content: bytes) -> str:
    """A short hash of bytes."""
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def file_digest(path: Path) -> str:
    """A hash of a file's content."""
    if not path.is_file():
        raise ValueError(f"{path} is no file of weights; check the path")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """As JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value, default=str))


def slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w.=+,-]+", "-", text).strip("-")
