"""Finds the columns of a table that hold the image, the label and the mask, by feature type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openset.activations import UNKNOWN, VOID

if TYPE_CHECKING:
    from datasets import Dataset


LABEL_NAMES = ("label", "labels", "class", "target", "class_name", "label_name", "category")
"""Columns taken as labels where no column has the type `ClassLabel`."""


MASK_NAMES = ("mask", "label", "annotation", "segmentation_mask")
"""Columns taken as masks before others that hold images."""


@dataclass(frozen=True)
class MaskClasses:
    """Maps the pixel values of a set's masks to classes: to the class of that index by default.

    Args:
        classes: Names of the classes; the mask's value is the index.
        unknown: Values that mark unknown objects.
        void: Values that are left out of training and evaluation.
        indices: The value of each class, where it is not its index.
    """

    classes: tuple[str, ...]
    unknown: tuple[int, ...] = ()
    void: tuple[int, ...] = (255,)
    indices: tuple[int, ...] = ()

    def values(self, labels: Tensor | None = None) -> Tensor:
        """The label of each of the 256 mask values, int64 `[256]`; those of no class are `VOID`.

        Args:
            labels: The label of each class `[number of classes]`; its index by default.
        """
        table = torch.full((256,), VOID)
        count = len(self.classes)
        places = list(self.indices or range(count))
        table[places] = torch.arange(count) if labels is None else labels
        table[list(self.unknown)] = UNKNOWN
        table[list(self.void)] = VOID
        return table


CAMVID = (
    "Sky Building Pole Road Pavement Tree SignSymbol Fence Car Pedestrian Bicyclist".split()  # noqa: SIM905
)


CITYSCAPES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)


VISTAS_NP = tuple(name for name in CITYSCAPES if name not in ("person", "rider"))


STREETHAZARDS = (
    "unlabelled",
    "building",
    "fence",
    "pedestrian",
    "pole",
    "road line",
    "road",
    "sidewalk",
    "vegetation",
    "car",
    "wall",
    "traffic sign",
)


MASKS = {
    "cityscapes": MaskClasses(CITYSCAPES),
    "fishyscapes-lost-and-found": MaskClasses(("known",), unknown=(1,)),
    "vistas-np": MaskClasses(VISTAS_NP, unknown=(254,)),
    "wd-pascal": MaskClasses(("known",), unknown=(1,)),
    # Values count from 1; 4, "other", is left out as its authors do, and 14 are the anomalies.
    "streethazards": MaskClasses(
        STREETHAZARDS,
        unknown=(14,),
        void=(0, 4, 255),
        indices=(1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13),
    ),
    "camvid": MaskClasses(tuple(CAMVID), void=(11, 255)),
    "road-anomaly": MaskClasses(("known",), unknown=(1,)),
    "segmentmeifyoucan-roadanomaly21": MaskClasses(("known",), unknown=(1,)),
}
"""Mask values of the segmentation sets that openset knows."""


def image_column(dataset: Dataset, name: str) -> str:
    """The first column of images; one of bytes and paths counts, as plain parquet has it.

    Raises:
        ValueError: If there is none.
    """
    for column in dataset.column_names:
        if is_image(dataset.features[column]):
            return column
    raise ValueError(
        f"{name} has no column of images (columns: {', '.join(dataset.column_names)}); "
        "give a set with one"
    )


def mask_column(dataset: Dataset, image: str) -> str | None:
    """The second column of images, which holds the masks of a segmentation set."""
    columns = [c for c in dataset.column_names if c != image and is_image(dataset.features[c])]
    named = [c for c in columns if c in MASK_NAMES]
    return (named or columns or [None])[0]


def is_image(feature: Any) -> bool:
    """Whether a column holds encoded images, be it declared or only by its shape."""
    if type(feature).__name__ == "Image":
        return True
    fields = feature if isinstance(feature, dict) else {}
    return set(fields) == {"bytes", "path"}


def label_column(dataset: Dataset, image: str) -> str | None:
    """The column of labels: of several, the one of the most classes (CIFAR-100's `fine_label`)."""
    named = {c: getattr(f, "num_classes", None) for c, f in dataset.features.items()}
    counted = {c: count for c, count in named.items() if count}
    if counted:
        return max(counted, key=lambda c: counted[c])
    return named_column(dataset.column_names, LABEL_NAMES)


def named_column(columns: Iterable[str], wanted: Sequence[str]) -> str | None:
    """The column that has the first of the `wanted` names that there is, in any case."""
    called = {str(column).strip().lower(): column for column in reversed(list(columns))}
    return next((called[name] for name in wanted if name in called), None)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the progress bars and log lines of Hugging Face; errors are raised all the same."""
    import datasets

    enabled = datasets.is_progress_bar_enabled()
    level = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if enabled:
            datasets.enable_progress_bars()
