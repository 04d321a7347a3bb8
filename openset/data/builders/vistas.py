"""Vistas-NP: Mapillary Vistas without people and riders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from openset.data.builders.writing import VOID, Pair, Splits, _mask
from openset.data.columns import VISTAS_NP

UNKNOWN_VALUE = 254
"""Mask value of unknown objects where a builder makes them."""


def vistas_np(source: Path) -> Splits:
    """Vistas-NP: Mapillary Vistas without people; images that hold a person or rider are the test.

    Needs the folder with `training`, `validation` and their `config*.json` of version 1.2, from
    https://www.mapillary.com/dataset/vistas. From all 20,000 images come 8,003 to train, 830 to
    validate and 11,167 to test.
    """
    table = vistas_table(source)

    def files(part: str) -> Iterator[tuple[Path, np.ndarray]]:
        for file in sorted((source / part / "images").glob("*.jpg")):
            found = [source / part / "labels", source / part / "v1.2" / "labels"]
            label = next((f / f"{file.stem}.png" for f in found if f.is_dir()), None)
            if label is None:
                raise ValueError(f"{source / part} holds no labels folder of version 1.2")
            yield file, table[_mask(label)]

    def pairs(*parts: str, people: bool) -> Iterator[Pair]:
        for part in parts:
            for file, mask in files(part):
                if bool((mask == UNKNOWN_VALUE).any()) == people:
                    yield Pair(file.read_bytes(), file.stem, mask)

    return {
        "train": pairs("training", people=False),
        "validation": pairs("validation", people=False),
        "test": pairs("training", "validation", people=True),
    }


def vistas_table(source: Path) -> np.ndarray:
    """The mask value of each of Mapillary's labels, uint8 `[256]`, by the names in its config."""
    configs = sorted(source.glob("config*.json"))
    if not configs:
        raise ValueError(f"{source} holds no config.json; give the folder of Mapillary Vistas")
    names = [label["name"] for label in json.loads(configs[0].read_text())["labels"]]
    table = np.full(256, VOID, dtype=np.uint8)
    for i, name in enumerate(names):
        if name.startswith("human--"):
            table[i] = UNKNOWN_VALUE
        elif name in VISTAS_NAMES:
            table[i] = VISTAS_NP.index(VISTAS_NAMES[name])
    return table


VISTAS_NAMES = {
    "construction--flat--road": "road",
    "construction--flat--crosswalk-plain": "road",
    "construction--flat--bike-lane": "road",
    "construction--flat--service-lane": "road",
    "construction--flat--parking": "road",
    "construction--flat--rail-track": "road",
    "marking--general": "road",
    "marking--crosswalk-zebra": "road",
    "construction--flat--sidewalk": "sidewalk",
    "construction--flat--curb-cut": "sidewalk",
    "construction--flat--pedestrian-area": "sidewalk",
    "construction--barrier--curb": "sidewalk",
    "construction--structure--building": "building",
    "construction--structure--bridge": "building",
    "construction--structure--tunnel": "building",
    "construction--barrier--wall": "wall",
    "construction--barrier--fence": "fence",
    "construction--barrier--guard-rail": "fence",
    "object--support--pole": "pole",
    "object--support--utility-pole": "pole",
    "object--traffic-light": "traffic light",
    "object--traffic-sign--front": "traffic sign",
    "object--support--traffic-sign-frame": "traffic sign",
    "nature--vegetation": "vegetation",
    "nature--terrain": "terrain",
    "nature--sand": "terrain",
    "nature--snow": "terrain",
    "nature--sky": "sky",
    "object--vehicle--car": "car",
    "object--vehicle--truck": "truck",
    "object--vehicle--bus": "bus",
    "object--vehicle--on-rails": "train",
    "object--vehicle--motorcycle": "motorcycle",
    "object--vehicle--bicycle": "bicycle",
}
"""Mapillary's labels in Cityscapes' classes, as the authors have them
(https://github.com/matejgrcic/Vistas-NP); those that are missing are void.

`openset shares` of the whole set must give the paper's 94.2 % known, 0.6 % unknown and 5.2 % void.
"""
