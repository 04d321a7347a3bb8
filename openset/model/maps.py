"""Image files in, a label map, a score map and an overlay of each out."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openset.activations import UNKNOWN
from openset.data import ImageSet
from openset.data.adapter import open_picture
from openset.data.loose import Loose
from openset.data.readable import Readable
from openset.files import complete_folder
from openset.model.open_set import OpenSet
from openset.networks.device import device_of
from openset.pictures import enlarged, image_picture, label_picture, limits, palette, score_picture
from openset.text import csv_line

CLASSES = "classes.json"
"""The file that says which class each index of a label map is."""

FILES = ("*.labels.png", "*.score.npy", "*.score.png", "*.overlay.png", "index.csv", CLASSES)
"""Patterns of the files in a folder of maps."""

INDEX = ("path", "name", "unknown", "highest_score")
"""The columns of the table of maps."""


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
    described, index = legend(model), [csv_line(INDEX)]
    names = names_of(images.images.paths)
    with complete_folder(folder, owns=FILES) as partial:
        for row, maps in maps_of(model, images, names, described, threshold):
            for name, content in maps.items():
                (partial / name).write_bytes(content)
            index.append(csv_line(row.values()))
        (partial / "index.csv").write_text("".join(index), encoding="utf-8", newline="")
        (partial / CLASSES).write_text(legend_text(described))
    return len(index) - 1


Mapped = tuple[dict[str, Any], dict[str, bytes]]
"""An image's row, by the columns of `INDEX`, and the files of its maps by their names."""


def maps_of(
    model: OpenSet,
    images: Readable,
    names: Sequence[str],
    described: Sequence[Any],
    threshold: Tensor | None = None,
) -> Iterator[Mapped]:
    """Row and maps of each image that can be read, one after another.

    Args:
        model: As for `write_maps`, as are images and threshold.
        images: The images, of which `skipped` says afterwards what was wrong with the others.
        names: The name of each image's maps.
        described: The model's `legend`.
        threshold: Another threshold `[1]` than the model's.
    """
    found = images.images
    for image, positions in images:
        label, score = (x.cpu() for x in model(image.to(device_of(model)), threshold))
        for i, position in enumerate(positions.tolist()):
            original, name = original_of(found, position), names[position]
            if model.adapter is not None and not model.adapter.whole:
                original = model.adapter.show(original).convert("RGB")
            maps = image_maps(original, label[i], score[i], len(described) - 1)
            path = found.pixels.path(int(found.indices[position]))
            row = (path, name, *figures(label[i], score[i]))
            files = {f"{name}.{ending}": content for ending, content in maps.items()}
            yield dict(zip(INDEX, row, strict=True)), files


def image_maps(
    picture: Image.Image, label: Tensor, score: Tensor, classes: int
) -> dict[str, bytes]:
    """The maps of one image at its own size, as the content of files by their endings."""
    size = (picture.height, picture.width)
    nearest = label_picture(label, classes).resize(picture.size, Image.Resampling.NEAREST)
    full, buffer = enlarged(score.float(), size), io.BytesIO()
    np.save(buffer, full.numpy())
    return {
        "labels.png": _png(nearest),
        "score.npy": buffer.getvalue(),
        "score.png": _png(score_picture(full, *limits(full))),
        "overlay.png": _png(Image.blend(picture, nearest.convert("RGB"), 0.5)),
    }


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def figures(label: Tensor, score: Tensor) -> tuple[float, float]:
    """The share of unknown pixels and the highest score of an image, to six digits."""
    share = float((label == UNKNOWN).double().mean())
    return round(share, 6), float(f"{float(score.max()):.6g}")


def original_of(images: ImageSet, index: int) -> Image.Image:
    """The image in colour, as its file holds it; from a table, as the model takes it."""
    pixels, row = images.pixels, int(images.indices[index])
    name = pixels.path(row)
    file = pixels.items[row] if isinstance(pixels, Loose) else Path(name)
    if isinstance(file, bytes) or (isinstance(file, Path) and file.is_file()):
        return open_picture(file, name).convert("RGB")
    return image_picture(images[index][0])


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


def legend_text(described: Sequence[Any]) -> str:
    """The content of `CLASSES`, from a `legend`."""
    return json.dumps(described, indent=2) + "\n"
