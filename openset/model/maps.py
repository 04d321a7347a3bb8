"""Image files in, a label map, a score map and an overlay of each out."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openset.activations import UNKNOWN
from openset.data import ImageSet
from openset.data.adapter import open_picture
from openset.data.readable import Readable
from openset.files import complete_folder
from openset.model.open_set import OpenSet
from openset.networks.device import device_of
from openset.pictures import enlarged, image_picture, label_picture, limits, palette, score_picture
from openset.text import csv_line

FILES = ("*.labels.png", "*.score.npy", "*.score.png", "*.overlay.png", "index.csv", "classes.json")
"""Patterns of the files in a folder of maps."""


INDEX = ("path", "name", "unknown", "highest_score")
"""The columns of `index.csv`."""


def labels_pixels(model: OpenSet) -> bool:
    """Whether a model answers for pixels, found by running it on a black image."""
    if model.adapter is None:
        return False
    image = torch.zeros(1, *model.adapter.shape, device=device_of(model))
    with torch.no_grad():
        return bool(model.tap(image).grid)


def write_maps(
    model: OpenSet, images: Readable, folder: str | Path | None, threshold: Tensor | None = None
) -> int:
    """Writes three maps of each image, as large as the image's file, and returns their number.

    Where the model's adapter cuts the centre out or adds bars, maps are those of what is left.

    `NAME.labels.png` holds classes as palette indices, with one more for unknown; `classes.json`
    says which is which. `NAME.score.npy` holds the score, higher = more unknown, and
    `NAME.score.png` a picture of it. `NAME.overlay.png` shows the labels over the image.
    `index.csv` lists them with the share of unknown pixels.

    Args:
        model: A calibrated model that labels pixels.
        images: From `openset.model.predict.opened`; those that cannot be read get no maps.
        folder: Complete or absent; earlier maps in it are replaced.
        threshold: Another threshold `[1]` than the model's.

    Raises:
        ValueError: If no folder is given, or it holds anything else.
    """
    if folder is None:
        raise ValueError("this model labels pixels; name a folder for its maps: --out FOLDER")
    paths, described = images.images.paths, legend(model)
    names, index = names_of(paths), [csv_line(INDEX)]
    with complete_folder(folder, owns=FILES) as partial:
        for image, positions in images:
            label, score = (x.cpu() for x in model(image.to(device_of(model)), threshold))
            for i, position in enumerate(positions.tolist()):
                original, place = original_of(images.images, position), partial / names[position]
                if model.adapter is not None and not model.adapter.whole:
                    original = model.adapter.show(original).convert("RGB")
                write_image_maps(original, label[i], score[i], place, len(described))
                record = (paths[position], names[position], *figures(label[i], score[i]))
                index.append(csv_line(record))
        (partial / "index.csv").write_text("".join(index), encoding="utf-8", newline="")
        (partial / "classes.json").write_text(json.dumps(described, indent=2) + "\n")
    return len(index) - 1


def write_image_maps(
    picture: Image.Image, label: Tensor, score: Tensor, place: Path, colours: int
) -> None:
    """The maps of one image at its own size, under the name of `place`."""
    classes, size = colours - 1, (picture.height, picture.width)
    nearest = label_picture(label, classes).resize(picture.size, Image.Resampling.NEAREST)
    nearest.save(place.with_name(f"{place.name}.labels.png"))
    full = enlarged(score.float(), size)
    buffer = io.BytesIO()  # Into a file, numpy would not say that the disk is full.
    np.save(buffer, full.numpy())
    place.with_name(f"{place.name}.score.npy").write_bytes(buffer.getbuffer())
    score_picture(full, *limits(full)).save(place.with_name(f"{place.name}.score.png"))
    shown = Image.blend(picture, nearest.convert("RGB"), 0.5)
    shown.save(place.with_name(f"{place.name}.overlay.png"))


def figures(label: Tensor, score: Tensor) -> tuple[str, str]:
    """The share of unknown pixels and the highest score of an image, as the index gives them."""
    share = float((label == UNKNOWN).double().mean())
    return f"{share:.6f}", f"{float(score.max()):.6g}"


def original_of(images: ImageSet, index: int) -> Image.Image:
    """The image in colour, as its file holds it; from a table, as the model takes it."""
    path = Path(images.paths[index])
    return open_picture(path).convert("RGB") if path.is_file() else image_picture(images[index][0])


def names_of(paths: list[str]) -> list[str]:
    """A name for each image by its file's; those of one name are numbered, and none is twice.

    Example:
        >>> names_of(["x/a.png", "y/a.png", "a-1.png", "A-2.png", "b.png"])
        ['a-3', 'a-4', 'a-1', 'A-2', 'b']
    """
    stems = [Path(path).stem for path in paths]
    # Some file systems take a for A.
    counts = Counter(stem.lower() for stem in stems)
    numbers: Counter[str] = Counter()
    return [
        _numbered(stem, counts, numbers) if counts[stem.lower()] > 1 else stem for stem in stems
    ]


def _numbered(stem: str, taken: Counter[str], numbers: Counter[str]) -> str:
    while True:
        numbers[stem.lower()] += 1
        name = f"{stem}-{numbers[stem.lower()]}"
        if name.lower() not in taken:
            return name


def legend(model: OpenSet) -> list[dict[str, Any]]:
    """Index, name and colour of each class, unknown last."""
    image = torch.zeros(1, *model.adapter.shape) if model.adapter else torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        count = model.tap(image.to(device_of(model))).logits.shape[1]
    names = [*(model.classes or map(str, range(count))), "unknown"]
    return [
        {"index": i, "name": name, "colour": colour}
        for i, (name, colour) in enumerate(zip(names, palette(count).tolist(), strict=False))
    ]
