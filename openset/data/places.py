"""Finds the data sets that lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from openset.data.noise import NOISES


def local_place(name: str) -> Path | None:
    """The path of a data set: the name itself, or below `$OPENSET_DATA`; None if at neither."""
    root = os.environ.get("OPENSET_DATA")
    places = (Path(name), *([Path(root) / name] if root else ()))
    return next((place for place in places if name and place.exists()), None)


def known_names() -> list[str]:
    """The data strings that work here: embedded, noise, and the sets below `$OPENSET_DATA`."""
    root = os.environ.get("OPENSET_DATA")
    found = [*Path(root).glob("*/data"), *Path(root).glob("*/*/data")] if root else []
    return ["digits", *NOISES, *sorted(str(path.parent.relative_to(root or "")) for path in found)]


def same_set(name: str, key: str) -> bool:
    """Whether a name or a path ends in the id `key`."""
    wanted = Path(key).parts
    return Path(name).parts[-len(wanted) :] == wanted
