"""Segmentation sets of which some classes are left out of training, to be found as unknown."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from openset.activations import UNKNOWN
from openset.data.adapter import Adapter
from openset.data.columns import MaskClasses
from openset.data.source import Split

LEAST_LEFT = 0.25
"""Least share of training images free of the classes left out; below it, no image is removed."""


READ = 64
"""Masks that are read at once."""


def without_left_out(
    parts: dict[str, Split], masks: MaskClasses, labels: Tensor, adapter: Adapter
) -> tuple[dict[str, Split], str]:
    """Drops training and validation images of the classes left out, and says so in a sentence.

    The images that hold a pixel of them leave; a network must not have seen what it shall find. If
    fewer than `LEAST_LEFT` of the training images would remain, all stay, and those pixels are to
    be `VOID` in training.

    Args:
        parts: The splits by "train", "valid", "test".
        masks: The classes of the mask values.
        labels: The label of each class, `UNKNOWN` for those left out.
        adapter: The size at which masks are looked at.
    """
    values = masks.values(labels)
    free = {key: ~holds_unknown(parts[key], values, adapter) for key in ("train", "valid")}
    total, left = len(free["train"]), int(free["train"].sum())
    if left < LEAST_LEFT * total:
        return parts, (
            f"Pixels of the classes left out are void in training, because only {left} of {total} "
            "training images hold none of them."
        )
    kept = {key: replace(parts[key], chosen=parts[key].rows[mask]) for key, mask in free.items()}
    if not len(kept["valid"].rows):
        kept["valid"] = parts["valid"]
    return parts | kept, (
        f"The {total - left} of {total} training images that hold a class left out are not trained "
        "on."
    )


def holds_unknown(split: Split, values: Tensor, adapter: Adapter) -> Tensor:
    """Marks the images of a split that hold a pixel labelled `UNKNOWN`, bool `[N]`."""
    assert split.masks is not None
    found = [torch.zeros(0, dtype=torch.bool)]
    for rows in split.rows.split(READ):
        masks = split.masks.read_masks(rows.tolist(), adapter)
        found.append((values[masks.long()] == UNKNOWN).flatten(1).any(1))
    return torch.cat(found)
