"""StreetHazards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from openset.data.builders.writing import Pair, Splits, _mask


def streethazards(source: Path) -> Splits:
    """StreetHazards: 12 classes of a simulator; objects that no training image has are unknown.

    Needs the folder with `train` and `test` from https://github.com/hendrycks/anomaly-seg.
    """

    def pairs(part: str, split: str) -> Iterator[Pair]:
        home = source / part
        for file in sorted((home / "images" / split).rglob("*.png")):
            label = home / "annotations" / file.relative_to(home / "images")
            yield Pair(file.read_bytes(), file.stem, _mask(label))

    return {
        "train": pairs("train", "training"),
        "validation": pairs("train", "validation"),
        "test": pairs("test", "test"),
    }
