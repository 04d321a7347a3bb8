"""WebDataset shards: tar files in which the members of one name make one sample."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openset.data.columns import LABEL_NAMES, named_column
from openset.data.folders import SUFFIXES
from openset.data.labels import Labels, labels_of, share_classes
from openset.data.pixels import Encoded
from openset.data.source import Source, Split, split_in

LARGEST_LABEL = 2**20
"""Bytes of a member that may be read for its label."""


@dataclass(frozen=True)
class Member:
    """The place of an image in a shard: the file, the first byte, the number of bytes, its name."""

    shard: Path
    start: int
    size: int
    name: str


class Shards(Encoded):
    """Encoded images within tar files, read from where they lie.

    Args:
        members: The images.
        name: Name of the set in error messages.
    """

    def __init__(self, members: Sequence[Member], name: str = "images"):
        self.members, self.name = members, name
        self._fingerprint = None

    def __len__(self) -> int:
        return len(self.members)

    def _cells(self, indices: Sequence[int]) -> list[dict[str, Any] | None]:
        return [_cell(self.members[i]) for i in indices]


def _cell(member: Member) -> dict[str, Any]:
    with member.shard.open("rb") as file:
        file.seek(member.start)
        return {"bytes": file.read(member.size), "path": f"{member.shard}/{member.name}"}


def find_shards(place: Path) -> list[Path]:
    """The tar file at a path, or those in a folder and its split folders."""
    if place.is_file():
        return [place] if place.suffix == ".tar" else []
    return sorted([*place.glob("*.tar"), *place.glob("*/*.tar")])


def read_shards(name: str, shards: Sequence[Path]) -> Source:
    """The samples of shards, each in the split that its name or its folder's speaks of, or train.

    A sample's label is its member `.cls`, or the entry `label` of its member `.json`.

    Raises:
        ValueError: If a shard is damaged or compressed, or none holds an image.
    """
    members: dict[str, list[Member]] = {}
    values: dict[str, list[Any]] = {}
    for shard in shards:
        split = split_in(shard.stem) or split_in(shard.parent.name) or "train"
        for member, label in _samples(shard):
            members.setdefault(split, []).append(member)
            values.setdefault(split, []).append(label)
    if not members:
        raise ValueError(f"no images in {shards[0]}; give tar files of images, each with a .cls")
    labels: dict[str, Labels] = {
        split: labels_of(found, f"{name}:{split}") for split, found in values.items()
    }
    codes, classes = share_classes(labels)
    splits = {
        key: Split(Shards(found, f"{name}:{key}"), codes[key]) for key, found in members.items()
    }
    return Source(name, splits, classes)


def _samples(shard: Path) -> list[tuple[Member, Any]]:
    images: dict[str, Member] = {}
    labels: dict[str, Any] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for entry in archive:
                folder, slash, file = entry.name.rpartition("/")
                stem, _, ending = file.partition(".")
                key = folder + slash + stem
                if not entry.isreg() or not stem:
                    continue
                if f".{ending.rpartition('.')[2].lower()}" in SUFFIXES:
                    member = Member(shard, entry.offset_data, entry.size, entry.name)
                    images.setdefault(key, member)
                elif ending in ("cls", "json") and entry.size <= LARGEST_LABEL:
                    content = archive.extractfile(entry)
                    labels.setdefault(key, _label(content.read() if content else b"", ending))
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {shard} as an uncompressed tar file: {error}") from error
    return [(member, labels.get(key)) for key, member in images.items()]


def _label(content: bytes, ending: str) -> Any:
    """A class by its name or number; None where a JSON member has none."""
    text = content.decode("utf-8").strip()
    if ending == "cls":
        return text
    found = json.loads(text)
    key = named_column(found, LABEL_NAMES) if isinstance(found, dict) else None
    return found[key] if key else None
