"""Segmentation sets made from the user's own copies of what may not be passed on."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from openset.data.columns import CITYSCAPES, VISTAS_NP
from openset.folders import complete_folder

ROWS = 32
"""Images that are written at once."""

VOID = 255
UNKNOWN_VALUE = 254
"""Mask value of unknown objects where a builder makes them."""


class Pair(NamedTuple):
    """An image file's content and name, and its mask uint8 `[H, W]`."""

    image: bytes
    name: str
    mask: np.ndarray


Splits = Mapping[str, Iterable[Pair]]


def build_set(name: str, sources: list[str], out: str | Path) -> dict[str, int]:
    """Makes a segmentation set in the layout that `openset.data.load` reads.

    Args:
        name: One of `BUILDERS`.
        sources: Where the publishers' folders lie, in the order that the builder's docstring says.
        out: The new folder; its last part must be the set's name, by which its masks are read.

    Returns:
        The number of images in each split.

    Raises:
        ValueError: If a folder is not what the publisher's archive holds.
    """
    from openset.names import unknown_name

    if name not in BUILDERS:
        raise ValueError(unknown_name("set to build", name, BUILDERS))
    if Path(out).name != name:
        raise ValueError(f"{out} must end in {name}, by which the meaning of its masks is known")
    builder, expected = BUILDERS[name]
    if len(sources) != expected:
        raise ValueError(f"{name} is made from {expected} folders, got {len(sources)}: {_of(name)}")
    for source in sources:
        if not Path(source).is_dir():
            raise ValueError(f"{source} is no folder; {_of(name)}")
    with complete_folder(out) as partial:
        (partial / "data").mkdir()
        splits = builder(*map(Path, sources))
        counts = {split: _write(partial / "data", split, pairs) for split, pairs in splits.items()}
        if not all(counts.values()):
            raise ValueError(f"no images for {counts} in {', '.join(sources)}; {_of(name)}")
    return counts


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

CITYSCAPES_IDS = np.full(256, VOID, dtype=np.uint8)
"""The class of each of Cityscapes' label ids."""
CITYSCAPES_IDS[[7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]] = np.arange(len(CITYSCAPES))

VISTAS_NAMES = {
    "construction--flat--road": "road",
    "construction--flat--crosswalk-plain": "road",
    "construction--flat--bike-lane": "road",
    "construction--flat--service-lane": "road",
    "marking--general": "road",
    "marking--crosswalk-zebra": "road",
    "construction--flat--sidewalk": "sidewalk",
    "construction--flat--curb-cut": "sidewalk",
    "construction--flat--pedestrian-area": "sidewalk",
    "construction--structure--building": "building",
    "construction--barrier--wall": "wall",
    "construction--barrier--fence": "fence",
    "object--support--pole": "pole",
    "object--support--utility-pole": "pole",
    "object--traffic-light": "traffic light",
    "object--traffic-sign--front": "traffic sign",
    "nature--vegetation": "vegetation",
    "nature--terrain": "terrain",
    "nature--sky": "sky",
    "object--vehicle--car": "car",
    "object--vehicle--truck": "truck",
    "object--vehicle--bus": "bus",
    "object--vehicle--on-rails": "train",
    "object--vehicle--motorcycle": "motorcycle",
    "object--vehicle--bicycle": "bicycle",
}
"""Mapillary's labels in Cityscapes' classes; those that are missing are void."""

BUILDERS: dict[str, tuple[Callable[..., Splits], int]] = {
    "cityscapes": (cityscapes, 1),
    "fishyscapes-lost-and-found": (fishyscapes, 2),
    "streethazards": (streethazards, 1),
    "vistas-np": (vistas_np, 1),
    "wd-pascal": (wd_pascal, 2),
}
"""By name, what makes each set and from how many folders."""


def how_to_get(name: str) -> str:
    """What to do for a set that may not be passed on; empty for any other."""
    if name not in BUILDERS:
        return ""
    folders = " ".join(f"FOLDER{i}" for i in range(1, BUILDERS[name][1] + 1))
    command = f"openset build-set {name} {folders} --out $OPENSET_DATA/{name}"
    return f"{_of(name)} Then run: {command}"


def _of(name: str) -> str:
    """The second paragraph of a builder's docstring: what it needs, and from where."""
    text = (BUILDERS[name][0].__doc__ or "").split("\n\n")[1]
    return " ".join(text.split())


def _mask(file: Path) -> np.ndarray:
    if not file.is_file():
        raise ValueError(f"{file} is missing; unpack the publisher's archive again")
    with Image.open(file) as picture:
        return np.array(picture, dtype=np.uint8)


def _png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def _write(folder: Path, split: str, pairs: Iterable[Pair]) -> int:
    """Writes one split as parquet, a few rows at a time; returns the number of images."""
    import pyarrow as arrow
    from pyarrow import parquet

    cell = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    schema = arrow.schema([("image", cell), ("mask", cell)])
    count, rows = 0, []
    file = folder / f"{split}-00000-of-00001.parquet"
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for image, name, mask in pairs:
            rows.append(
                {
                    "image": {"bytes": image, "path": name},
                    "mask": {"bytes": _png(mask), "path": name},
                }
            )
            count += 1
            if len(rows) == ROWS:
                writer.write_table(arrow.Table.from_pylist(rows, schema))
                rows = []
        if rows:
            writer.write_table(arrow.Table.from_pylist(rows, schema))
    return count
