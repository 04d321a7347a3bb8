"""Splits a data set into images to train, calibrate and test on, and images that stay unknown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from openset.activations import UNKNOWN, VOID
from openset.data.adapter import Adapter
from openset.data.classes import choose_classes
from openset.data.folders import find_images
from openset.data.images import ImageSet
from openset.data.loose import Loose
from openset.data.modes import depth_of
from openset.data.noise import NOISES, Noise
from openset.data.pixels import adapter_of, highest_pixel
from openset.data.places import same_set
from openset.data.relabel import without_left_out
from openset.data.source import Source, Split
from openset.data.sources import INVERTED, DataName, from_tables, open_source
from openset.data.tables import given_tables
from openset.errors import unknown_name

Size = int | tuple[int, int]


@dataclass
class Data:
    """The images that a run learns from and is tested on, with their classes and adapter.

    Args:
        name: The data string it came from.
        classes: Names of the K known classes; labels are 0…K−1 in this order.
        train: Known images to learn from.
        valid: Known images held out, to calibrate on.
        test: Known images to test on.
        unknown: Test images of the classes left out, labelled `UNKNOWN`; may be empty.
        adapter: Turns images into tensors, in training and for every image scored later.
        skipped: A message on each image left out by `skip_bad`.
        notes: Sentences on what was decided on the way, for the report.
    """

    name: str
    classes: list[str]
    train: ImageSet
    valid: ImageSet
    test: ImageSet
    unknown: ImageSet
    adapter: Adapter
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load(
    spec: Any,
    known_classes: str | Iterable[int | str] | None = None,
    *,
    size: Size | None = None,
    channels: int | None = None,
    resize: str = "stretch",
    interpolation: str = "bilinear",
    adapter: Adapter | None = None,
    valid: float = 0.1,
    seed: int = 0,
    skip_bad: bool = False,
) -> Data:
    """A labelled data set, split into known and unknown classes.

    Args:
        spec: A data string: `digits`, a hub id, a folder, a file; settings follow after commas. Or
            a `datasets.Dataset`, or several by split.
        known_classes: The classes to know, such as `range(6)`, `"0-5"` or `"cat,dog"`; all by
            default. Their order is that of the labels. `"not cat,dog"` knows all but these.
        size: Height and width that every image is brought to; as stored by default.
        channels: 1 or 3; as stored by default.
        resize: Treatment of images with another aspect ratio: `"stretch"`, `"shorter"` or
            `"pad"`, as `Adapter` says.
        interpolation: The filter that resizes.
        adapter: Adapter of a trained network, in place of the four settings before it.
        valid: Share of each class of the training images that is held out, where the set has no
            validation split of its own.
        seed: Seed of what is held out.
        skip_bad: Leave out images that cannot be read; `Data.skipped` names them.

    Raises:
        ValueError: For data that does not exist or cannot be read, with the nearest names.

    Example:
        >>> data = load("digits", known_classes=range(6))
        >>> len(data.train), len(data.valid), len(data.test), len(data.unknown)
        (650, 72, 361, 238)
    """
    name, source = opened(spec)
    if source is None or name.split:
        raise ValueError(
            f"{spec!r} cannot be trained on; give a data set of labelled images, without :split"
        )
    known = choose_classes(known_classes, source.classes)
    classes = check_classes([source.classes[c] for c in known], source)
    notes: list[str] = []
    parts = arrange(source, valid, seed, notes)
    if adapter is None:
        way = {"resize": resize, "interpolation": interpolation}
        adapter = adapter_of(parts["train"].pixels, size, channels, **way)
    bits = name.bits or used_bits(parts["train"], notes)
    adapter = replace(adapter, invert=inverted(name, adapter), bits=bits)
    parts = seen_as_known(parts, source, known, adapter, notes)
    left_out = {"train": VOID, "valid": VOID, "test": UNKNOWN}
    sets = {
        key: image_set(source, part, adapter, known, left_out[key]) for key, part in parts.items()
    }
    if skip_bad:
        sets = {key: images.without_bad() for key, images in sets.items()}
    skipped = [reason for images in sets.values() for reason in images.skipped]
    notes += skipped_note(skipped)
    train, held, test = (known_part(sets[key]) for key in ("train", "valid", "test"))
    unknown = unknown_part(sets["test"])
    need_every_class(train, classes)
    return Data(source.name, classes, train, held, test, unknown, adapter, skipped, notes)


def seen_as_known(
    parts: dict[str, Split], source: Source, known: list[int], adapter: Adapter, notes: list[str]
) -> dict[str, Split]:
    """The splits, those to train on without images that show a class left out, if pixels do."""
    if source.masks is None or len(known) == len(source.classes):
        return parts
    labels = class_labels(source, known)
    parts, note = without_left_out(parts, source.masks, labels, adapter)
    notes.append(note)
    return parts


def skipped_note(skipped: list[str]) -> list[str]:
    """A sentence on the images that could not be read, if there are any."""
    if not skipped:
        return []
    named = [reason.partition(";")[0] for reason in skipped[:10]]
    more = ["…"] if len(skipped) > len(named) else []
    return [f"Unreadable images left out: {len(skipped)} ({'; '.join(named + more)})."]


def load_images(
    spec: Any, adapter: Adapter, *, seed: int = 0, count: int = 10_000, skip_bad: bool = False
) -> ImageSet:
    """One split of any data set, adapted to a run's size and channels, as unknown images.

    The split is the one named after a colon, otherwise the first there is of test, validation and
    train. Labels are `UNKNOWN`; those of masks are what the set's table says.

    Args:
        spec: A data string: `digits`, a hub id, a folder, a noise; `:split` and settings follow. Or
            a `datasets.Dataset`, or several by split.
        adapter: The run's. Its `invert` is replaced where the set's polarity is known, or by the
            setting `invert=…`.
        seed: Seed of noise, where the string has none.
        count: Number of images of noise, where the string does not say by `limit=…`.
        skip_bad: Leave out images that cannot be read; the set counts them in `skipped`.

    Example:
        >>> load_images("gaussian-noise,limit=100", Adapter((8, 8), channels=1))
        ImageSet('gaussian-noise', 100 images of (1, 8, 8))
    """
    name, source = opened(spec)
    adapter = replace(adapter, invert=inverted(name, adapter), bits=name.bits or adapter.bits)
    if source is None:
        seed = seed if name.seed is None else name.seed
        noise = Noise(name.name, name.limit or count, seed)
        return ImageSet(noise, None, adapter, name=name.name)
    split = source.find(name.split) if name.split else source.find("test", "valid", "train")
    if split is None:
        raise ValueError(unknown_name(f"split of {name.name}", str(name.split), source.splits))
    source.name = str(name)
    images = image_set(source, source.splits[split], adapter, known=[])
    return images.without_bad() if skip_bad else images


def load_known(spec: str, classes: Sequence[str], adapter: Adapter) -> ImageSet:
    """One split of any labelled data set, as images of a model's known classes.

    The split is the one named after a colon, otherwise the only one, or the first there is of
    validation and test. Images of other classes are left out.

    Args:
        spec: A data string, as for `load_images`.
        classes: The model's class names; labels are their positions.
        adapter: The run's, as for `load_images`.

    Raises:
        ValueError: For data without labels, or that lack one of the classes.

    Example:
        >>> load_known("digits:test", ["3", "8"], Adapter((8, 8), channels=1))
        ImageSet('digits:test', 119 images of (1, 8, 8))
    """
    name = DataName.parse(spec)
    if name.name in NOISES:
        raise ValueError(f"{spec!r} is noise; give labelled images of {', '.join(classes)}")
    source = open_source(name)
    only = [*source.splits] if len(source.splits) == 1 else ["valid", "test"]
    split = source.find(*([name.split] if name.split else only))
    if split is None:
        raise ValueError(unknown_name(f"split of {name.name}", str(name.split), source.splits))
    missing = [c for c in classes if c not in source.classes]
    if missing or not source.splits[split].labelled:
        have = f"its classes are {', '.join(source.classes)}" if missing else "it has no labels"
        raise ValueError(
            f"{spec} cannot stand for the known classes {', '.join(classes)}: {have}; give images "
            "of all of them under the same names"
        )
    source.name = str(name)
    known = [source.classes.index(c) for c in classes]
    adapter = replace(adapter, invert=inverted(name, adapter))
    return known_part(image_set(source, source.splits[split], adapter, known))


def load_files(paths: Iterable[str | Path], adapter: Adapter) -> ImageSet:
    """Image files, folders of them and globs, unlabelled, as a model's adapter wants them.

    Args:
        paths: What to read, in this order; `ImageSet.paths` says what was found.
        adapter: The model's.
    """
    return ImageSet(Loose(find_images(paths)), None, adapter)


def opened(spec: Any) -> tuple[DataName, Source | None]:
    """The parts of a data string, and the source that it names, None for noise.

    Args:
        spec: A data string, a path, or what `given_tables` takes.
    """
    if not isinstance(spec, str | Path):
        return DataName("the data set"), from_tables("the data set", given_tables(spec))
    name = DataName.parse(str(spec))
    return name, None if name.name in NOISES else open_source(name)


def check_classes(known: list[str], source: Source) -> list[str]:
    """The names of the known classes, if they can be told apart from one another and "unknown".

    Raises:
        ValueError: If a known class is called unknown, or if the set has a single class.
    """
    refused = [name for name in known if name.casefold() == "unknown"]
    if refused:
        raise ValueError(
            f"{source.name} has a class called {refused[0]!r}, as the answer for what is no known "
            f"class is; rename it, or leave it out: known_classes='not {refused[0]}'"
        )
    if len(source.classes) == 1 and source.masks is None:
        raise ValueError(
            f"{source.name} has a single class, {source.classes[0]!r}, so there is nothing to tell "
            "apart; give a folder for each class, or a table with the columns path and label"
        )
    return known


def used_bits(train: Split, notes: list[str]) -> int | None:
    """Bits per pixel that training images stored in 16 use, judged by the largest of all pixels."""
    highest = highest_pixel(train.pixels, train.rows.tolist())
    if highest is None:
        return None
    bits = depth_of(highest)
    notes.append(
        f"Images are stored in 16 bits and use {bits}: the largest pixel to train on is {highest}."
    )
    return bits


def inverted(name: DataName, adapter: Adapter) -> bool:
    """Whether a set is inverted: as its string says, as is known of it, or as the run does."""
    if name.invert is not None:
        return name.invert
    if name.name in NOISES:
        return False
    return next((v for key, v in INVERTED.items() if same_set(name.name, key)), adapter.invert)


def arrange(source: Source, valid: float, seed: int, notes: list[str]) -> dict[str, Split]:
    """The splits to train on, to calibrate on and to test on; what is missing is held out."""
    names = {key: source.find(key) for key in ("train", "valid", "test")}
    if names["train"] is None:
        raise ValueError(
            f"{source.name} has no train split (it has: {', '.join(source.splits)}); use it as an "
            "unknown set, or name one that has"
        )
    parts = {key: source.splits[name] for key, name in names.items() if name}
    labelled = {key for key, part in parts.items() if part.labelled}
    if "train" not in labelled:
        raise ValueError(
            f"{source.name} has no labels; give class folders, or a column called label"
        )
    parts = {key: part for key, part in parts.items() if key in labelled}
    if "test" not in parts and "valid" in parts:
        parts["test"] = parts.pop("valid")
        notes.append(f"{source.name} has no test split: its {names['valid']} split is the test.")
    if "test" not in parts:
        parts["train"], parts["test"] = parts["train"].divided(0.2, seed)
        notes.append(f"{source.name} has no test split: 20 % of each class is, with seed {seed}.")
    if "valid" not in parts:
        whole = len(parts["train"].rows)
        parts["train"], parts["valid"] = parts["train"].divided(valid, seed)
        if source.masks is not None and valid:
            notes.append(
                f"{len(parts['valid'].rows)} of the {whole} training images of {source.name} are "
                f"held out for the threshold, with seed {seed}, and not trained on."
            )
    return parts


def image_set(
    source: Source, split: Split, adapter: Adapter, known: list[int], left_out: int = UNKNOWN
) -> ImageSet:
    """A split with labels 0…K−1 for the known classes and `left_out` for the others."""
    labels = class_labels(source, known, left_out)
    if split.masks is not None and source.masks is not None:
        mine = None
        values = source.masks.values(labels if known else None)
        if left_out == VOID:
            values = values.masked_fill(values == UNKNOWN, VOID)
    else:
        mine = None if split.labels is None else labels[split.labels[split.rows]]
        values = None
    return ImageSet(
        split.pixels,
        mine,
        adapter,
        name=source.name,
        indices=split.rows,
        masks=split.masks,
        values=values,
    )


def class_labels(source: Source, known: list[int], left_out: int = UNKNOWN) -> torch.Tensor:
    """The label of each class of a source, `[number of classes]`."""
    labels = torch.full((len(source.classes),), left_out)
    labels[known] = torch.arange(len(known))
    return labels


def known_part(images: ImageSet) -> ImageSet:
    """The images of known classes; all of them where labels are per pixel."""
    return images if images.dense else images.subset(images.labels >= 0)


def unknown_part(images: ImageSet) -> ImageSet:
    """The images of the classes left out; where labels are per pixel, all if there are any."""
    name = f"{images.name} left out"
    if images.dense:
        mixed = bool((images.values == UNKNOWN).any())
        return images.subset(torch.arange(len(images) if mixed else 0), name)
    return images.subset(images.labels < 0, name)


def need_every_class(train: ImageSet, classes: list[str]) -> None:
    """Raises for known classes without a training image."""
    if train.dense:
        return
    count = train.labels.bincount(minlength=len(classes))
    missing = [name for name, n in zip(classes, count.tolist(), strict=True) if not n]
    if missing:
        raise ValueError(
            f"{train.name} has no training image of {', '.join(missing)}; leave these classes out: "
            f"known_classes='not {','.join(missing)}'"
        )
