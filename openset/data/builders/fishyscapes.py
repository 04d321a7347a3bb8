"""Fishyscapes Lost & Found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from openset.data.builders.writing import Pair, Splits, _mask


def fishyscapes(labels: Path, images: Path) -> Splits:
    """Fishyscapes Lost & Found: 100 images in which obstacles on the road are unknown.

    Needs the folder with `*_labels.png` from https://fishyscapes.com, and that with the images of
    Lost and Found (`leftImg8bit`) from http://www.6d-vision.com/lostandfounddataset.
    """

    def pairs() -> Iterator[Pair]:
        files = {f.name: f for f in images.rglob("*_leftImg8bit.png")}
        for label in sorted(labels.rglob("*_labels.png")):
            name = label.name.removesuffix("_labels.png")
            # Fishyscapes puts a running number before the name that the image has.
            wanted = (f"{n}_leftImg8bit.png" for n in (name, name.partition("_")[2]))
            file = next((files[n] for n in wanted if n in files), None)
            if file is None:
                raise ValueError(f"no image of {label.name} below {images}")
            yield Pair(file.read_bytes(), name, _mask(label))

    return {"test": pairs()}
