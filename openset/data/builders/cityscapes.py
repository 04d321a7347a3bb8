"""Cityscapes with its 19 classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from openset.data.builders.writing import VOID, Pair, Splits, _mask
from openset.data.columns import CITYSCAPES


def cityscapes(source: Path) -> Splits:
    """Cityscapes: 19 classes; its validation split is the test.

    Needs the folder with `leftImg8bit` and `gtFine`, from https://www.cityscapes-dataset.com.
    """

    def pairs(split: str) -> Iterator[Pair]:
        for file in sorted((source / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
            stem = file.name.removesuffix("_leftImg8bit.png")
            label = source / "gtFine" / split / file.parent.name / f"{stem}_gtFine_labelIds.png"
            yield Pair(file.read_bytes(), stem, CITYSCAPES_IDS[_mask(label)])

    return {"train": pairs("train"), "test": pairs("val")}


CITYSCAPES_IDS = np.full(256, VOID, dtype=np.uint8)
"""The class of each of Cityscapes' label ids."""


CITYSCAPES_IDS[[7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]] = np.arange(len(CITYSCAPES))
