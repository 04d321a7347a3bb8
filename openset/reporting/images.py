"""The images on the page: which ones, what is known of each, and their files as text."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from openset.evaluation.gallery import SHOWN, TRAINING, Details
from openset.evaluation.maps import Maps
from openset.evaluation.results import Results
from openset.evaluation.rows import Case
from openset.pictures import image_picture
from openset.reporting.arrays import Arrays
from openset.reporting.choice import set_names

SMALL = 48
"""Images up to this side are kept lossless; they are enlarged without smoothing."""


class Shown:
    """The images of a run that the page shows, with the answers of each of its detectors.

    They carry scores of their own, so that a sample of the scores need not hold them.
    """

    def __init__(self, results: Results, run: Case, arrays: Arrays):
        self.results, self.run, self.arrays = results, run, arrays
        wanted, kept = results.wanted_images(run), results.images.get(run, {})
        kept = {data: kept[data] for data in wanted if kept.get(data)}
        share = SHOWN // max(len(kept), 1)
        self.places = {
            data: sorted(its, key=lambda i, chosen={*wanted[data]}: i not in chosen)[:share]
            for data, its in kept.items()
        }

    def record(self) -> dict[str, Any]:
        """The images, and the training images that stand beside some."""
        details = self.results.details.get(self.run, {})
        images = [
            self._image(data, i, details.get(data, {}).get(i, {}))
            for data in self.places
            for i in self.places[data]
        ]
        wanted = {i for image in images for i, _ in image["near"]}
        kept, told = self.results.images.get(self.run, {}), details.get(TRAINING, {})
        training = {
            i: {"src": data_uri(x), **told.get(i, {})}
            for i, x in kept.get(TRAINING, {}).items()
            if i in wanted
        }
        return {"images": images, "training": training}

    def _image(self, data: str, index: int, its: Details) -> dict[str, Any]:
        known = data == self.run.known
        case = next(case for case in self.results.scored if case.run == self.run)
        label = int(self.results.scored[case][data].label[index]) if known else -1
        return {
            "set": set_names(self.results, case).index(data),
            "index": index,
            "label": label,
            "path": its.get("path", ""),
            "near": its.get("near", []),
            "src": data_uri(self.results.images[self.run][data][index]),
        }

    def answers(self, case: Case) -> dict[str, Any]:
        """Score, nearest class and runner-up of each image by one detector."""
        sets, details = self.results.scored[case], self.results.details.get(self.run, {})
        parts = [sets[data][indices] for data, indices in self.places.items() if indices]
        told = [details.get(data, {}).get(i, {}) for data in self.places for i in self.places[data]]
        second = [its.get("runner_up", {}).get(case.detector, -1) for its in told]
        empty = torch.zeros(0)
        return {
            "score": self.arrays.scores(torch.cat([p.score for p in parts] or [empty])),
            "predicted": self.arrays.classes(
                torch.cat([p.predicted for p in parts] or [empty.long()])
            ),
            "second": self.arrays.put(torch.tensor(second, dtype=torch.int16)),
            "parts": [its.get("parts", {}).get(case.detector) for its in told],
        }


def maps_of(maps: Maps, arrays: Arrays) -> dict[str, Any]:
    height, width = maps.score.shape
    return {
        "src": data_uri(maps.image),
        "height": height,
        "width": width,
        "score": arrays.put(maps.score, torch.float32),
        "predicted": arrays.classes(maps.predicted),
        "label": arrays.put(maps.label, torch.int16),
    }


def data_uri(image: Tensor) -> str:
    """A thumbnail `[C, H, W]` in uint8 as the address of itself."""
    picture = (
        Image.fromarray(image[0].numpy()) if image.shape[0] == 1 else image_picture(image[:3] / 255)
    )
    kind = "png" if max(picture.size) <= SMALL else "webp"
    file = io.BytesIO()
    picture.save(file, kind, quality=80) if kind == "webp" else picture.save(file, kind)
    return uri(file.getvalue(), f"image/{kind}")


def uri(content: bytes, kind: str) -> str:
    """A file as the address of itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
