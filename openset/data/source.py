"""A data set as it is stored: its splits, their pixels and labels, nothing decoded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from openset.data.classes import hold_out
from openset.data.columns import MaskClasses
from openset.data.pixels import Encoded, Pixels

SPLITS = {
    "train": ("train", "training"),
    "valid": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""The splits by the names that publishers give them."""


def split_in(text: str) -> str | None:
    """The split that a name speaks of, such as `"test"` for `x_test` or `test-00001.tar`."""
    words = re.findall(r"[a-z]+", text.lower())
    return next((key for key, names in SPLITS.items() if set(names) & set(words)), None)


@dataclass
class Split:
    """The images of one split as they are stored, with their labels or masks.

    Args:
        pixels: The images, nothing decoded.
        labels: One per image `[N]`, or None.
        masks: The source of the masks where labels are per pixel.
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

    def without(self, classes: Tensor) -> Split:
        """The images that are of none of these classes; those without a label, too."""
        if self.labels is None:
            return self
        kept = ~torch.isin(self.labels[self.rows], classes)
        return replace(self, chosen=self.rows[kept])

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
