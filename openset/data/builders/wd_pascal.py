"""WD-Pascal: animals of Pascal VOC pasted into WildDash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from openset.data.builders.writing import Pair, Splits, _mask, _png


def wd_pascal(wilddash: Path, voc: Path, seed: int = 0) -> Splits:
    """WD-Pascal: an animal of Pascal VOC 2007 pasted into each image of WildDash.

    Needs the folder of WildDash's images (`*.png` or `*.jpg`), from https://wilddash.cc, and
    `VOC2007` from http://host.robots.ox.ac.uk/pascal/VOC. Animals that cover over 0.7 % of the
    image keep their size; places are drawn by a seed, as Bevandić et al. 2019 do.
    """

    def pairs() -> Iterator[Pair]:
        generator = np.random.default_rng(seed)
        animals = list(voc_animals(voc))
        for file in sorted(f for f in wilddash.rglob("*") if f.suffix in (".png", ".jpg")):
            image = np.array(Image.open(file).convert("RGB"))
            fitting = [a for a in animals if _fits(a[1], image)]
            if not fitting:
                raise ValueError(f"no animal of {voc} covers over 0.7 % of {file} and fits into it")
            pixels, shape = fitting[int(generator.integers(len(fitting)))]
            height, width = shape.shape
            top = int(generator.integers(image.shape[0] - height + 1))
            left = int(generator.integers(image.shape[1] - width + 1))
            mask = np.zeros(image.shape[:2], dtype=np.uint8)
            place = (slice(top, top + height), slice(left, left + width))
            image[place][shape], mask[place][shape] = pixels[shape], 1
            yield Pair(_png(image), file.stem, mask)

    return {"test": pairs()}


def voc_animals(voc: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pixels `[H, W, 3]` and shape (bool `[H, W]`) of each animal, cropped to its box."""
    for file in sorted((voc / "SegmentationObject").glob("*.png")):
        objects, classes = _mask(file), _mask(voc / "SegmentationClass" / file.name)
        picture = np.array(Image.open(voc / "JPEGImages" / f"{file.stem}.jpg").convert("RGB"))
        for one in np.unique(objects[(objects > 0) & (objects < 255)]):
            shape = objects == one
            if int(np.bincount(classes[shape]).argmax()) in VOC_ANIMALS:
                rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
                box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
                yield picture[box], shape[box]


def _fits(shape: np.ndarray, image: np.ndarray) -> bool:
    smaller = all(s <= i for s, i in zip(shape.shape, image.shape, strict=False))
    return smaller and shape.sum() > 0.007 * image.shape[0] * image.shape[1]


VOC_ANIMALS = {3, 8, 10, 12, 13, 17}
"""Bird, cat, cow, dog, horse and sheep."""
