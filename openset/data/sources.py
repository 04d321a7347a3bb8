"""One string to a data set: embedded, a Hugging Face id, a folder, or noise."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openset.data.classes import hold_out
from openset.data.columns import (
    MASKS,
    MaskClasses,
    image_column,
    label_column,
    mask_column,
    read_labels,
)
from openset.data.folders import read_image_folder
from openset.data.noise import NOISES
from openset.data.pixels import Arrays, Encoded, Pixels
from openset.names import parse, unknown_name

if TYPE_CHECKING:
    from datasets import DatasetDict

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
        seed: Seed of `limit` and of noise.
        config: The configuration of a hub set that has several.

    Example:
        >>> DataName.parse("ylecun/mnist:train,limit=1000").split
        'train'
    """

    name: str
    split: str | None = None
    invert: bool | None = None
    limit: int | None = None
    seed: int = 0
    config: str | None = None

    def __post_init__(self):
        if self.limit is not None and not (isinstance(self.limit, int) and self.limit > 0):
            raise ValueError(f"limit is {self.limit!r}; give a whole number above 0")
        if self.invert not in (None, True, False):
            raise ValueError(f"invert is {self.invert!r}; give true or false")

    @classmethod
    def parse(cls, text: str) -> DataName:
        """The parts of a data string; an existing path is taken as it stands."""
        if Path(text).exists():
            return cls(text)
        head, _, rest = text.partition(",")
        name, _, split = head.rpartition(":") if ":" in Path(head).name else (head, "", "")
        _, bare, keyed = parse(f":{rest}")
        allowed = ("invert", "limit", "seed", "config")
        for key in [*map(str, bare), *keyed]:
            if key not in allowed or key in bare:
                raise ValueError(unknown_name(f"setting of data {name}", key, allowed))
        return cls(name, split or None, **keyed)

    def __str__(self) -> str:
        return self.name + (f":{self.split}" if self.split else "")


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
            source.splits[name] = split.limited(spec.limit, spec.seed)
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


def from_tables(name: str, tables: DatasetDict) -> Source:
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
        known = MaskClasses(tuple(str(c) for c in range(255)))
    return Source(name, splits, list(known.classes) if known else classes, known)


def same_set(name: str, key: str) -> bool:
    """Whether a name or a path ends in the id `key`."""
    wanted = Path(key).parts
    return Path(name).parts[-len(wanted) :] == wanted


def read_tables(spec: DataName) -> DatasetDict:
    """The tables of a folder or a hub id: first as a path, then below `$OPENSET_DATA`, then hub."""
    root = os.environ.get("OPENSET_DATA")
    for folder in (Path(spec.name), *([Path(root) / spec.name] if root else ())):
        if folder.is_dir():
            return read_folder(folder)
        if folder.is_file():
            raise ValueError(f"{folder} is a file; give the folder that holds it")
    if not HUB_ID.fullmatch(spec.name):
        raise ValueError(unknown_name("data set", spec.name, known_names()))
    return read_hub(spec)


def known_names() -> list[str]:
    """The data strings that work here: embedded, noise, and the folders of `$OPENSET_DATA`."""
    root = Path(os.environ.get("OPENSET_DATA", "/nowhere"))
    folders = {
        str(path.parent.relative_to(root))
        for depth in ("*", "*/*")
        for path in root.glob(f"{depth}/data")
    }
    return ["digits", *NOISES, *sorted(folders)]


def read_folder(folder: Path) -> DatasetDict:
    """A folder of parquet files, or of images."""
    if not any(folder.rglob("*.parquet")):
        return read_image_folder(folder)
    from datasets import load_dataset

    try:
        with quiet():
            tables: Any = load_dataset(str(folder))
    except Exception as error:
        raise ValueError(f"cannot read {folder}: {error}") from error
    return tables


def read_hub(spec: DataName) -> DatasetDict:
    """A set from the Hugging Face hub, or from its cache on this machine."""
    from datasets import load_dataset

    try:
        with quiet():
            tables: Any = load_dataset(spec.name, spec.config)
    except Exception as error:
        raise ValueError(f"{spec.name}: {error}") from error
    return tables


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of Hugging Face inside."""
    import datasets

    enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_progress_bars()
