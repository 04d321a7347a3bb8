"""One string to a data set: embedded, a Hugging Face id, a folder, or noise."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from openset.data.builders.build import how_to_get
from openset.data.classes import hold_out
from openset.data.columns import (
    MASKS,
    MaskClasses,
    image_column,
    label_column,
    mask_column,
    quiet,
    read_labels,
)
from openset.data.folders import read_image_folder
from openset.data.noise import NOISES, Noisy
from openset.data.pixels import Arrays, Encoded, Pixels
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


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


SPLITS = {
    "train": ("train", "training"),
    "valid": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
"""The splits by the names that publishers give them."""


@dataclass(frozen=True)
class DataName:
    """A data string taken apart: `NAME[:SPLIT][,key=value…]`.

    Args:
        name: `digits`, a noise, a hub id or a folder.
        split: The split to score; None for the default.
        invert: Turn x into 255 − x; None for what is known of the set.
        limit: Use at most so many images of each split, drawn by `seed`.
        seed: Seed of `limit` and `noise` (0 by default), and of a set of noise (the run's by
            default).
        config: The configuration of a hub set that has several.
        noise: Add uniform noise in 0…`noise` to each pixel in 0…1.

    Example:
        >>> DataName.parse("ylecun/mnist:train,limit=1000").split
        'train'
    """

    name: str
    split: str | None = None
    invert: bool | None = None
    limit: int | None = None
    seed: int | None = None
    config: str | None = None
    noise: float | None = None

    def __post_init__(self):
        if self.limit is not None and not (isinstance(self.limit, int) and self.limit > 0):
            raise ValueError(f"limit is {self.limit!r}; give a whole number above 0")
        if self.invert not in (None, True, False):
            raise ValueError(f"invert is {self.invert!r}; give true or false")
        if self.noise is not None and not (isinstance(self.noise, int | float) and self.noise > 0):
            raise ValueError(f"noise is {self.noise!r}; give a number above 0, such as 1")
        if self.noise is not None and self.name in NOISES:
            raise ValueError(f"{self.name} is noise already; leave out noise={self.noise:g}")

    @classmethod
    def parse(cls, text: str) -> DataName:
        """The parts of a data string; an existing path is taken as it stands."""
        if Path(text).exists():
            return cls(text)
        head, _, rest = text.partition(",")
        name, _, split = head.rpartition(":") if ":" in Path(head).name else (head, "", "")
        _, bare, keyed = parse(f":{rest}")
        allowed = ("invert", "limit", "seed", "config", "noise")
        for key in [*map(str, bare), *keyed]:
            if key not in allowed or key in bare:
                raise ValueError(unknown_name(f"setting of data {name}", key, allowed))
        return cls(name, split or None, **keyed)

    def __str__(self) -> str:
        split = f":{self.split}" if self.split else ""
        return self.name + split + (f",noise={self.noise:g}" if self.noise else "")


@dataclass
class Split:
    """The images of one split as they are stored, with their labels or masks.

    Args:
        pixels: The images, nothing decoded.
        labels: One per image `[N]`, or None.
        masks: Where labels are per pixel, their source.
        chosen: The images that are in use; None for all.
    """

    pixels: Pixels
    labels: Tensor | None = None
    masks: Encoded | None = None
    chosen: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """Indices of the images that are in use."""
        return torch.arange(len(self.pixels)) if self.chosen is None else self.chosen

    @property
    def labelled(self) -> bool:
        """Whether there are labels, per image or per pixel."""
        return self.labels is not None or self.masks is not None

    def limited(self, limit: int, seed: int) -> Split:
        """At most `limit` of the images, drawn by `seed`, in their old order."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self.rows), generator=generator)[:limit].sort().values
        return replace(self, chosen=self.rows[chosen])

    def divided(self, share: float, seed: int) -> tuple[Split, Split]:
        """This split without a share of each class, and that share; of all images for masks."""
        labels = torch.zeros(len(self.pixels)) if self.labels is None else self.labels
        kept, held = hold_out(labels[self.rows], share, seed)
        return replace(self, chosen=self.rows[kept]), replace(self, chosen=self.rows[held])


@dataclass
class Source:
    """A data set as it is stored, nothing decoded: its splits by name and its classes."""

    name: str
    splits: dict[str, Split]
    classes: list[str] = field(default_factory=list)
    masks: MaskClasses | None = None

    def find(self, *wanted: str) -> str | None:
        """The set's own name of the first of the `wanted` splits that it has."""
        for split in wanted:
            for name in (split, *SPLITS.get(split, ())):
                if name in self.splits:
                    return name
        return None


def open_source(spec: DataName) -> Source:
    """The data set that a name stands for, nothing decoded yet.

    Raises:
        ValueError: For a name that is nowhere, with the nearest that exist, and for data that
            cannot be read.
    """
    if spec.name == "digits":
        source = digits()
    else:
        source = from_tables(spec.name, read_tables(spec))
    if spec.limit is not None:
        for name, split in source.splits.items():
            source.splits[name] = split.limited(spec.limit, spec.seed or 0)
    if spec.noise is not None:
        for name, split in source.splits.items():
            noisy = Noisy(split.pixels, spec.noise, spec.seed or 0)
            source.splits[name] = replace(split, pixels=noisy)
    return source


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


def from_tables(name: str, tables: dict[str, Dataset]) -> Source:
    """The source that tables hold, by the feature types of their columns."""
    splits: dict[str, Split] = {}
    classes: list[str] = []
    known = next((m for key, m in MASKS.items() if same_set(name, key)), None)
    for split, table in tables.items():
        called = f"{name}:{split}"
        image = image_column(table, called)
        pixels = Encoded(table, image, called)
        mask, label = mask_column(table, image), label_column(table, image)
        if mask is not None:
            splits[split] = Split(pixels, masks=Encoded(table, mask, f"{called} masks"))
        elif label is not None:
            labels, classes = read_labels(table, label, called)
            splits[split] = Split(pixels, labels)
        else:
            splits[split] = Split(pixels)
    if known is None and any(split.masks for split in splits.values()):
        known = MaskClasses(tuple(str(c) for c in range(1 + highest_mask(splits))))
    return Source(name, splits, list(known.classes) if known else classes, known)


def highest_mask(splits: dict[str, Split]) -> int:
    """The largest class in the masks of the training split, or of the first there is."""
    split = splits.get("train") or next(iter(splits.values()))
    return split.masks.highest() if split.masks else 0


def same_set(name: str, key: str) -> bool:
    """Whether a name or a path ends in the id `key`."""
    wanted = Path(key).parts
    return Path(name).parts[-len(wanted) :] == wanted


def read_tables(spec: DataName) -> dict[str, Dataset]:
    """The tables of a folder or a hub id: first as a path, then below `$OPENSET_DATA`, then hub."""
    root = os.environ.get("OPENSET_DATA")
    if folder := local_folder(spec.name):
        if folder.is_file():
            raise ValueError(f"{folder} is a file; give the folder that holds it")
        return read_folder(folder)
    if help := how_to_get(spec.name):
        raise ValueError(f"{spec.name} is not on this machine, and may not be passed on. {help}")
    if not HUB_ID.fullmatch(spec.name):
        raise ValueError(
            f"{unknown_name('data set', spec.name, known_names())} A folder, or a Hugging Face id "
            f"such as ylecun/mnist, works too; $OPENSET_DATA is {root or 'not set'}"
        )
    return read_hub(spec)


def local_folder(name: str) -> Path | None:
    """Where a data set lies: at that path, or below `$OPENSET_DATA`; None if at neither."""
    root = os.environ.get("OPENSET_DATA")
    places = (Path(name), *([Path(root) / name] if root else ()))
    return next((place for place in places if place.exists()), None)


def located(spec: DataName) -> DataName:
    """With the folder in the place of the name, if it is one: the same however it is spelled."""
    folder = local_folder(spec.name)
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


def known_names() -> list[str]:
    """The data strings that work here: embedded, noise, and the sets below `$OPENSET_DATA`."""
    root = os.environ.get("OPENSET_DATA")
    found = [*Path(root).glob("*/data"), *Path(root).glob("*/*/data")] if root else []
    return ["digits", *NOISES, *sorted(str(path.parent.relative_to(root or "")) for path in found)]


def read_folder(folder: Path) -> dict[str, Dataset]:
    """A folder of parquet files, or of images."""
    if not any(folder.rglob("*.parquet")):
        return read_image_folder(folder)
    from datasets import load_dataset

    try:
        with quiet():
            return cast("dict[str, Dataset]", load_dataset(str(folder)))
    except Exception as error:  # parquet, Arrow and Hugging Face each have their own
        raise ValueError(f"cannot read the parquet files of {folder}: {error}") from error


def read_hub(spec: DataName) -> dict[str, Dataset]:
    """A set from the Hugging Face hub, or from the copy that an earlier download left here."""
    from datasets import config, load_dataset
    from huggingface_hub import HfApi

    owner, _, name = spec.name.partition("/")
    cached = Path(config.HF_DATASETS_CACHE) / f"{owner}___{name}"
    try:
        if not cached.is_dir():
            # Asked once here, because load_dataset tries an unreachable hub for half a minute.
            HfApi().dataset_info(spec.name, timeout=10)
        with quiet():
            return cast("dict[str, Dataset]", load_dataset(spec.name, spec.config))
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        root = os.environ.get("OPENSET_DATA", "which is not set")
        near = get_close_matches(spec.name, known_names(), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"{spec.name} is no folder here nor below $OPENSET_DATA, {root}{hint}; the Hugging "
            f"Face hub says: {reason}. Set OPENSET_DATA to the folder that "
            f"holds {spec.name}, or go online"
        ) from error


def same_name(name: str) -> str:
    """A data string without what draws a sample: `isun:test,limit=9` and `isun` are the same."""
    return str(located(DataName.parse(name))).removesuffix(":test")
