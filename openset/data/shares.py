"""How much of a set's label maps is known, unknown and void."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from openset.activations import UNKNOWN, VOID
from openset.data.classes import choose_classes
from openset.data.splits import class_labels, opened


class Shares(NamedTuple):
    """Shares of the pixels of a split, and the number of its images."""

    images: int
    known: float
    unknown: float
    void: float


def label_shares(
    spec: str, known_classes: str | Iterable[int | str] | None = None
) -> dict[str, Shares]:
    """The shares of known, unknown and void pixels in each split, at the masks' own resolution.

    As Table 2 of Grcić et al. 2021, https://arxiv.org/abs/2011.11094, compares segmentation sets.

    Args:
        spec: A data string of a segmentation set; `:split` chooses one.
        known_classes: The classes to know, as `openset.data.load` takes them; all by default.

    Raises:
        ValueError: For a set without label maps.
    """
    name, source = opened(spec)
    if source is None or source.masks is None:
        raise ValueError(f"{spec} has no label maps; give a segmentation set")
    labels = class_labels(source, choose_classes(known_classes, source.classes), UNKNOWN)
    values = source.masks.values(labels).numpy()
    chosen = [source.find(name.split)] if name.split else [*source.splits]
    found = {}
    for split in chosen:
        part = source.splits[str(split)]
        counts = np.zeros(256, dtype=np.int64)
        if part.masks is None:
            continue
        for mask in part.masks.pictures(part.rows.tolist()):
            counts += np.bincount(np.asarray(mask).ravel(), minlength=256)[:256]
        kinds = (values >= 0, values == UNKNOWN, values == VOID)
        found[str(split)] = Shares(
            len(part.rows), *(float(counts[kind].sum() / counts.sum()) for kind in kinds)
        )
    return found
