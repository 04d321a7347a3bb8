"""Turns one string into a data set: embedded, a Hugging Face id, a folder, a file, or noise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from openset.data.classes import choose_classes, hold_out
from openset.data.columns import MASKS, MaskClasses, image_column, label_column, mask_column
from openset.data.labels import Labels, read_labels, share_classes
from openset.data.listings import with_images
from openset.data.modes import DEPTHS
from openset.data.noise import NOISES, Noisy
from openset.data.npz import read_npz
from openset.data.pixels import Arrays, Encoded
from openset.data.places import local_place, same_set
from openset.data.shards import find_shards, read_shards
from openset.data.source import Source, Split
from openset.data.tables import read_file, read_folder, read_hub
from openset.errors import unknown_name
from openset.spec import parse

if TYPE_CHECKING:
    from datasets import Dataset


INVERTED = {
    "digits": False,
    "ylecun/mnist": False,
    "tanganke/kmnist": False,
    "brendenlake/omniglot": True,
}
"""Sets whose polarity is known; True where they are dark on light and are turned by default."""


PART = re.compile(r"(.*)\[(?:(\d+)%:|:(\d+)%)\]")
"""The end of `test[:50%]` and of `test[50%:]`."""


@dataclass(frozen=True)
class DataName:
    """A data string taken apart: `NAME[:SPLIT][,key=value…]`.

    Of a split, `test[:30%]` takes that share of each class, drawn by `seed`, and `test[30%:]` the
    other images.

    Args:
        name: `digits`, a noise, a hub id, a folder or a file.
        split: The split to score; None for the default.
        percent: Part of the split in percent: 30 for `[:30%]`, −30 for `[30%:]`; None for all.
        invert: Turn x into 255 − x; None for what is known of the set.
        limit: Use at most so many images of each split, drawn by `seed`.
        seed: Seed of a part, `limit` and `noise` (0 by default), and of a set of noise (the run's
            by default).
        config: The configuration of a hub set that has several.
        noise: Add uniform noise in 0…`noise` to each pixel in 0…1.
        bits: Bits per pixel that images stored in 16 bits use; None for what their pixels say.
        without: Classes to leave out, a name or index or several: `without=0+217+dog`.

    Example:
        >>> DataName.parse("ylecun/mnist:train,limit=1000").split
        'train'
    """

    name: str
    split: str | None = None
    percent: int | None = None
    invert: bool | None = None
    limit: int | None = None
    seed: int | None = None
    config: str | None = None
    noise: float | None = None
    bits: int | None = None
    without: Any = None

    def __post_init__(self):
        if self.limit is not None and not (isinstance(self.limit, int) and self.limit > 0):
            raise ValueError(f"limit is {self.limit!r}; give a whole number above 0")
        if self.invert not in (None, True, False):
            raise ValueError(f"invert is {self.invert!r}; give true or false")
        if self.noise is not None and not (isinstance(self.noise, int | float) and self.noise > 0):
            raise ValueError(f"noise is {self.noise!r}; give a number above 0, such as 1")
        if self.bits not in (None, *DEPTHS):
            raise ValueError(f"bits is {self.bits!r}; give one of {', '.join(map(str, DEPTHS))}")
        if self.noise is not None and self.name in NOISES:
            raise ValueError(f"{self.name} is noise already; leave out noise={self.noise:g}")
        part = self.percent is None or 0 < abs(self.percent) < 100
        if not part or (self.percent is not None and self.split is None):
            raise ValueError(
                f"{self} names no part of a split; give such as {self.name}:test[:50%]"
            )

    @classmethod
    def parse(cls, text: str) -> DataName:
        """The parts of a data string; an existing path is taken as it stands."""
        if Path(text).exists():
            return cls(text)
        head, _, rest = text.partition(",")
        found = PART.fullmatch(head)
        head, percent = (found[1], int(found[3] or -int(found[2]))) if found else (head, None)
        name, _, split = head.rpartition(":") if ":" in Path(head).name else (head, "", "")
        _, bare, keyed = parse(f":{rest}")
        allowed = ("invert", "limit", "seed", "config", "noise", "bits", "without")
        for key in [*map(str, bare), *keyed]:
            if key not in allowed or key in bare:
                raise ValueError(unknown_name(f"setting of data {name}", key, allowed))
        return cls(name, split or None, percent, **keyed)

    def __str__(self) -> str:
        split = f":{self.split}" if self.split else ""
        if self.percent is not None:
            split += f"[:{self.percent}%]" if self.percent > 0 else f"[{-self.percent}%:]"
        return self.name + split + (f",noise={self.noise:g}" if self.noise else "")


def open_source(spec: DataName) -> Source:
    """The data set that a name stands for, nothing decoded yet.

    Raises:
        ValueError: For a name that is nowhere, with the nearest that exist, and for data that
            cannot be read.
    """
    source = digits() if spec.name == "digits" else stored(spec)
    if spec.without is not None:
        words = spec.without if isinstance(spec.without, tuple) else (spec.without,)
        left_out = torch.tensor(choose_classes([str(word) for word in words], source.classes))
        for name, split in source.splits.items():
            source.splits[name] = split.without(left_out)
    if spec.percent is not None and (name := source.find(str(spec.split))):
        others, part = source.splits[name].divided(abs(spec.percent) / 100, spec.seed or 0)
        source.splits[name] = part if spec.percent > 0 else others
    if spec.limit is not None:
        for name, split in source.splits.items():
            source.splits[name] = split.limited(spec.limit, spec.seed or 0)
    if spec.noise is not None:
        for name, split in source.splits.items():
            noisy = Noisy(split.pixels, spec.noise, spec.seed or 0)
            source.splits[name] = replace(split, pixels=noisy)
    return source


def stored(spec: DataName) -> Source:
    """The source at a path, below `$OPENSET_DATA` or on the hub, in whatever form it is kept."""
    place = local_place(spec.name)
    if place is None:
        return from_tables(spec.name, read_hub(spec.name, spec.config))
    if place.suffix == ".npz":
        return read_npz(spec.name, place)
    if shards := find_shards(place):
        return read_shards(spec.name, shards)
    return from_tables(spec.name, read_folder(place) if place.is_dir() else read_file(place))


def digits() -> Source:
    """The 1,797 handwritten digits of scikit-learn, 8×8 grey; a third of each class is the test.

    The set comes without a split, so this one is always the same.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.from_numpy(bunch.images / 16)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    train, test = hold_out(labels, 1 / 3, seed=0)
    splits = {
        name: Split(Arrays(images[chosen], f"digits:{name}"), labels[chosen])
        for name, chosen in (("train", train), ("test", test))
    }
    return Source("digits", splits, [str(c) for c in range(10)])


def from_tables(name: str, tables: Mapping[str, Dataset], folder: Path = Path()) -> Source:
    """The source that tables hold, by the feature types of their columns.

    Args:
        name: Name of the source.
        tables: A table for each split.
        folder: From where paths in the tables count.
    """
    splits: dict[str, Split] = {}
    labels: dict[str, Labels] = {}
    known = next((m for key, m in MASKS.items() if same_set(name, key)), None)
    for split, table in tables.items():
        called = f"{name}:{split}"
        table = with_images(table, folder, called)
        image = image_column(table, called)
        pixels = Encoded(table, image, called)
        mask, label = mask_column(table, image), label_column(table, image)
        splits[split] = Split(pixels)
        if mask is not None:
            splits[split].masks = Encoded(table, mask, f"{called} masks")
        elif label is not None:
            labels[split] = read_labels(table, label, called)
    codes, classes = share_classes(labels)
    for split, found in codes.items():
        splits[split].labels = found
    masks = [split.masks for split in splits.values() if split.masks is not None]
    if known is None and masks:
        highest = max(mask.highest() for mask in masks)
        known = MaskClasses(tuple(str(c) for c in range(1 + highest)))
    return Source(name, splits, list(known.classes) if known else classes, known)


def located(spec: DataName) -> DataName:
    """Puts the resolved path in place of a name that is a path here, however it is spelled."""
    folder = local_place(spec.name)
    return spec if folder is None else replace(spec, name=str(folder.resolve()))


def same_images(one: str, other: str) -> bool:
    """Whether two data strings draw from the same images, neither with noise nor inverted.

    A folder is the same however it is spelled; splits and samples of it are not told apart.
    """
    plain = [DataName.parse(name) for name in (one, other)]
    if any(name.noise or name.invert is not None for name in plain):
        return False
    first, second = map(located, plain)
    return (first.name, first.config) == (second.name, second.config)


def same_name(name: str) -> str:
    """A data string without its sampling options: `isun:test,limit=9` and `isun` are the same."""
    return str(replace(located(DataName.parse(name)), percent=None)).removesuffix(":test")


def other_part(text: str) -> str:
    """The data string of the images that a part of a split leaves.

    Example:
        >>> other_part("imagenette:test[:30%],seed=1")
        'imagenette:test[30%:],seed=1'
    """
    return re.sub(r"\[(?:(\d+)%:|:(\d+)%)\]", _turned, text)


def _turned(found: re.Match[str]) -> str:
    before, until = found.groups()
    return f"[{until}%:]" if until else f"[:{before}%]"
