"""Which label an image gets: splits with different classes, order of folders, names of classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import openset

from .cases import Case
from .material import Material, png

SHADES = {"bird": 10, "cat": 60, "dog": 120, "emu": 200}
"""The grey of each class, by which its images are known again."""


def cases(material: Material, count: int) -> Iterator[Case]:
    """Layouts of data sets; all but a class called `unknown` must be read as they are meant."""
    for name, attempt in LAYOUTS.items():
        yield Case("labels: splits and folders", name, attempt, refusable=False, shares=True)
    for name in ("train", "test", "valid", "val", "validation", "testing", "Train"):
        attempt = partial(named_like_a_split, name)
        yield Case("labels: class named like a split", name, attempt, refusable=False, shares=True)
    for layout in ("folders", "table"):
        yield Case(
            "labels: class called unknown", layout, partial(called_unknown, layout), shares=True
        )


def folders(place: Path, classes: Iterable[str], shades: dict[str, int], each: int = 10) -> None:
    """Class folders, each of images of one grey."""
    for name in classes:
        (place / name).mkdir(parents=True)
        for i in range(each):
            (place / name / f"{i}.png").write_bytes(png(8, shades[name]))


def table(place: Path, split: str, labels: list, kind: object) -> None:
    """A parquet file of a split, with labels of some kind; greys as in `SHADES`, or the label."""
    from datasets import Dataset, Features, Image

    place.mkdir(exist_ok=True)
    shades = [SHADES.get(x, x if isinstance(x, int) else 0) for x in labels]
    cells = [{"bytes": png(8, shade), "path": None} for shade in shades]
    features = Features({"image": Image(), "label": kind})
    Dataset.from_dict({"image": cells, "label": labels}, features).to_parquet(
        place / f"{split}.parquet"
    )


def scrambled(data: openset.data.Data, shades: dict[str, int]) -> str | None:
    """Compares the labels of known images with their greys, which tell the class."""
    for part in ("train", "valid", "test"):
        for image, label in openset.data.batches(getattr(data, part)):
            greys = (image[:, 0, 0, 0] * 255).round().int().tolist()
            for grey, c in zip(greys, label.tolist(), strict=True):
                if shades[data.classes[c]] != grey:
                    return f"{part}: grey {grey} is labelled {data.classes[c]!r}"
    return None


def strings_that_differ() -> str | None:
    """Train cat, dog, emu; test bird, cat, dog; no `ClassLabel`."""
    from datasets import Value

    table(Path("zoo"), "train", ["cat", "dog", "emu"] * 20, Value("string"))
    table(Path("zoo"), "test", ["bird", "cat", "dog"] * 10, Value("string"))
    data = openset.data.load("zoo", known_classes="cat,dog")
    greys = {round(float(x[0, 0, 0]) * 255) for x, _ in _pairs(data.unknown)}
    if greys != {SHADES["bird"]}:
        return f"unknown images have greys {greys}"
    return scrambled(data, SHADES)


def integers_that_differ() -> str | None:
    """Train 1, 3, 5; test 0, 1, 3; a value keeps its meaning."""
    from datasets import Value

    table(Path("zoo"), "train", [1, 3, 5] * 20, Value("int64"))
    table(Path("zoo"), "test", [0, 1, 3] * 10, Value("int64"))
    data = openset.data.load("zoo", known_classes=["1", "3"])
    return scrambled(data, {str(i): i for i in range(6)})


def class_labels_that_differ() -> str | None:
    """Each split with a `ClassLabel` of its own."""
    from datasets import ClassLabel, Dataset, Features, Image

    Path("zoo").mkdir()
    for split, names in (("train", ["cat", "dog", "emu"]), ("test", ["bird", "cat", "dog"])):
        cells = [{"bytes": png(8, SHADES[n]), "path": None} for n in names * 10]
        features = Features({"image": Image(), "label": ClassLabel(names=names)})
        rows = {"image": cells, "label": [0, 1, 2] * 10}
        Dataset.from_dict(rows, features).to_parquet(f"zoo/{split}.parquet")
    try:
        return scrambled(openset.data.load("zoo", known_classes="cat,dog"), SHADES)
    except ValueError:
        return None  # Tables that contradict each other may be refused.


def folders_that_differ() -> str | None:
    """Split folders with different classes."""
    folders(Path("zoo/train"), ("cat", "dog", "emu"), SHADES)
    folders(Path("zoo/test"), ("bird", "cat", "dog"), SHADES)
    return scrambled(openset.data.load("zoo", known_classes="cat,dog"), SHADES)


def numbers_in_order(layout: str) -> str | None:
    """Classes 0…11; `0-5` are the first six."""
    from datasets import Value

    shades = {str(i): 20 * i for i in range(12)}
    if layout == "folders":
        folders(Path("zoo"), shades, shades)
    else:
        table(Path("zoo"), "train", list(shades) * 10, Value("string"))
    data = openset.data.load("zoo", known_classes="0-5")
    if data.classes != [str(i) for i in range(6)]:
        return f"0-5 are {data.classes}"
    return scrambled(data, shades) if layout == "folders" else None


def plain_splits() -> str | None:
    """Folders that are splits are read as splits."""
    for split in ("train", "test"):
        folders(Path("zoo") / split, ("cat", "dog"), SHADES)
    data = openset.data.load("zoo")
    if data.classes != ["cat", "dog"]:
        return f"classes are {data.classes}"
    return scrambled(data, SHADES)


LAYOUTS = {
    "strings, splits differ": strings_that_differ,
    "integers, splits differ": integers_that_differ,
    "ClassLabel, splits differ": class_labels_that_differ,
    "folders, splits differ": folders_that_differ,
    "folders 0…11": partial(numbers_in_order, "folders"),
    "strings 0…11": partial(numbers_in_order, "table"),
    "train and test": plain_splits,
}


def named_like_a_split(name: str) -> str | None:
    """A class folder with such a name beside others is a class."""
    shades = {"bus": 30, "car": 90, name: 200}
    folders(Path("zoo"), shades, shades)
    data = openset.data.load("zoo")
    if sorted(data.classes) != sorted(shades):
        return f"classes are {data.classes}"
    adapter = openset.data.Adapter((8, 8), 3)
    if (seen := len(openset.data.load_images("zoo", adapter))) != 30:
        return f"{seen} of 30 images as unknown ones"
    return scrambled(data, shades)


def called_unknown(layout: str) -> str | None:
    """A class with the name that means no class must be refused by name."""
    from datasets import Value

    shades = {"cat": 60, "unknown": 90}
    if layout == "folders":
        folders(Path("zoo"), shades, shades)
    else:
        table(Path("zoo"), "train", list(shades) * 10, Value("string"))
    try:
        data = openset.data.load("zoo")
    except ValueError as error:
        if "unknown" not in str(error):
            return f"refused without the name: {error}"
        raise
    return f"accepted: classes {data.classes}"


def _pairs(images: openset.data.ImageSet) -> Iterator[tuple]:
    for image, label in openset.data.batches(images):
        yield from zip(image, label, strict=True)
