"""Image files in, a label map, a score map and an overlay of each out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openset.activations import UNKNOWN
from openset.data import ImageSet
from openset.data.adapter import open_picture
from openset.data.loaders import images_at_once
from openset.files import complete_folder
from openset.model.open_set import OpenSet
from openset.networks.device import device_of
from openset.pictures import enlarged, image_picture, label_picture, limits, palette, score_picture

FILES = ("*.labels.png", "*.score.npy", "*.score.png", "*.overlay.png", "index.csv", "classes.json")
"""What a folder of maps holds."""


def labels_pixels(model: OpenSet) -> bool:
    """Whether a model answers for pixels, by a look at a black image."""
    if model.adapter is None:
        return False
    image = torch.zeros(1, *model.adapter.shape, device=device_of(model))
    with torch.no_grad():
        return bool(model.tap(image).grid)


def write_maps(model: OpenSet, images: ImageSet, folder: str | Path | None) -> int:
    """Writes three maps of each image, as large as the image's file, and returns their number.

    `NAME.labels.png` holds classes as palette indices, with one more for unknown; `classes.json`
    says which is which. `NAME.score.npy` holds the score, higher = more unknown, and
    `NAME.score.png` a picture of it. `NAME.overlay.png` shows the labels over the image.
    `index.csv` lists them with the share of unknown pixels.

    Args:
        model: A calibrated model that labels pixels.
        images: From `openset.model.predict.open_images`.
        folder: Complete or absent; earlier maps in it are replaced.

    Raises:
        ValueError: If no folder is given, or it holds anything else.
    """
    if folder is None:
        raise ValueError("this model labels pixels; name a folder for its maps: --out FOLDER")
    names, described = names_of(images.paths), legend(model)
    with complete_folder(folder, owns=FILES) as partial:
        records, done = [], 0
        for image, _ in images.batches(images_at_once(images)):
            label, score = model(image.to(device_of(model)))
            for i in range(len(image)):
                place = partial / names[done]
                original = original_of(images, done)
                write_image_maps(original, label[i].cpu(), score[i].cpu(), place, len(described))
                records.append(record(images.paths[done], names[done], label[i], score[i]))
                done += 1
        with (partial / "index.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
        (partial / "classes.json").write_text(json.dumps(described, indent=2) + "\n")
    return done


def write_image_maps(
    picture: Image.Image, label: Tensor, score: Tensor, place: Path, colours: int
) -> None:
    """The maps of one image at its own size, under the name of `place`."""
    classes, size = colours - 1, (picture.height, picture.width)
    nearest = label_picture(label, classes).resize(picture.size, Image.Resampling.NEAREST)
    nearest.save(place.with_name(f"{place.name}.labels.png"))
    full = enlarged(score.float(), size)
    np.save(place.with_name(f"{place.name}.score.npy"), full.numpy())
    score_picture(full, *limits(full)).save(place.with_name(f"{place.name}.score.png"))
    shown = Image.blend(picture, nearest.convert("RGB"), 0.5)
    shown.save(place.with_name(f"{place.name}.overlay.png"))


def record(path: str, name: str, label: Tensor, score: Tensor) -> dict[str, Any]:
    """What the index says of an image."""
    share = float((label == UNKNOWN).double().mean())
    return {
        "path": path,
        "name": name,
        "unknown": f"{share:.6f}",
        "highest_score": f"{float(score.max()):.6g}",
    }


def original_of(images: ImageSet, index: int) -> Image.Image:
    """The image in colour, as its file holds it; from a table, as the model takes it."""
    path = Path(images.paths[index])
    return open_picture(path).convert("RGB") if path.is_file() else image_picture(images[index][0])


def names_of(paths: list[str]) -> list[str]:
    """A name for each image by its file's; those of one name are numbered."""
    stems = [Path(path).stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{stem}-{stems[:i].count(stem) + 1}"
        for i, stem in enumerate(stems)
    ]


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
