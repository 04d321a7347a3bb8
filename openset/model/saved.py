"""A saved model: safetensors and a readable description, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from openset import networks
from openset.densities import DENSITIES
from openset.detectors import DETECTORS
from openset.files import recovered
from openset.spec import check_trust, look_up

TENSORS, DESCRIPTION = "model.safetensors", "model.json"


def restore(spec: Any, trust: Sequence[str] = ()) -> Any:
    """A detector, density or network from its spec; other values as they are."""
    if isinstance(spec, list):
        return [restore(item, trust) for item in spec]
    if not isinstance(spec, dict) or "kind" not in spec:
        return spec
    if spec["kind"] == "network":
        return networks.from_spec(spec["spec"], trust)
    tables: dict[str, Mapping[str, Callable]] = {"detector": DETECTORS, "density": DENSITIES}
    if ":" in spec["name"]:
        check_trust(spec["name"], trust)
    factory = look_up(spec["kind"], tables.get(spec["kind"], {}), spec["name"])
    return factory(**{key: restore(value, trust) for key, value in spec["settings"].items()})


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    """The tensors' file and the description, checked against each other."""
    path = recovered(path)
    file = path / TENSORS if path.is_dir() else path
    if not file.exists():
        raise ValueError(f"{path} holds no {TENSORS}; give a folder that `openset fit` has written")
    try:
        with safe_open(file, "pt") as tensors:
            description = json.loads((tensors.metadata() or {})["openset"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ValueError(f"{file} is no model of openset, or is truncated: {error}") from error
    if path.is_dir():
        _check_description(path / DESCRIPTION, file, description)
    return file, description


def saved_name(folder: Path) -> str | None:
    """The name that a saved model says it was given; None for one that says none."""
    try:
        told = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return None
    name = told.get("name") if isinstance(told, dict) else None
    return name if isinstance(name, str) else None


def _check_description(readable: Path, file: Path, description: dict[str, Any]) -> None:
    if not readable.exists():
        raise ValueError(f"{readable} is missing; load {file} alone, or restore the folder")
    try:
        told = json.loads(readable.read_text())
    except ValueError as error:
        raise ValueError(f"{readable} is not JSON, perhaps truncated: {error}") from error
    if told.pop("sha256", None) != _digest(file):
        raise ValueError(f"{file} is not the file that {readable} describes; restore the folder")
    if told != description:
        raise ValueError(f"{readable} was changed after it was written; restore the folder")
