"""Reads labelled images batch by batch, whatever holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from openset.data.batch import as_batch, as_labels, collate, image_and_label
from openset.data.images import Batches, ImageSet
from openset.data.pixels import adapter_of
from openset.data.readable import Readable
from openset.data.sources import from_tables
from openset.data.tables import given_tables
from openset.errors import one_line


def batches(source: Any, batch_size: int = 256) -> Iterable[tuple[Tensor, Tensor]]:
    """Re-iterable (image `[N, C, H, W]` in 0…1, label `[N]`) of whatever holds images.

    Batches and samples may be pairs (image, label), longer tuples that start so, dictionaries with
    `image` and `label`, or images alone, whose label is `UNKNOWN`. Labels are indices of classes,
    in one column or one-hot too.

    Args:
        source: An `ImageSet`, images `[N, C, H, W]`, a pair of images and labels, any
            `torch.utils.data.Dataset` or `datasets.Dataset`, a `DataLoader`, or a list of batches.
        batch_size: Images per batch, where the source does not say.

    Raises:
        ValueError: For a source that can be read only once; while it is read, for a batch that is
            none of these, and for pixels that are not in 0…1.
    """
    if isinstance(source, ImageSet):
        return source.batches(batch_size)
    if isinstance(source, Batches | Readable | _Checked):
        return source
    if type(source).__module__.startswith("datasets."):
        return of_table(source).batches(batch_size)
    if isinstance(source, Tensor | np.ndarray) or is_pair(source):
        return _Checked(_Slices(source, batch_size))
    if isinstance(source, Dataset):
        source = DataLoader(source, batch_size, collate_fn=collate)
    elif isinstance(source, str | Mapping) or not isinstance(source, Iterable) or (
        iter(source) is source
    ):  # fmt: skip
        raise ValueError(
            f"got {type(source).__name__}; give an ImageSet, a Dataset of (image, label), a "
            "DataLoader or a list of batches, which can be read more than once"
        )
    return _Checked(source)


def numbered(
    source: Any, batch_size: int, wanted: Callable[[int], bool]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The number of each batch that is wanted, with its images and labels.

    The others of an `ImageSet` are not read, those of a loader are and come to nothing.

    Args:
        source: As `batches` takes it.
        batch_size: Images per batch, where the source does not say.
        wanted: Says of a batch, counted from 0, whether it is.
    """
    found = batches(source, batch_size)
    if isinstance(found, Batches):
        for number in filter(wanted, range(len(found))):
            yield number, *found[number]
        return
    for number, (image, label) in enumerate(found):
        if wanted(number):
            yield number, image, label


def is_pair(source: Any) -> bool:
    """Whether a source is the pair of all images and all labels."""
    return (
        isinstance(source, tuple | list)
        and len(source) == 2
        and all(isinstance(x, Tensor | np.ndarray) for x in source)
        and source[0].ndim == 4 != source[1].ndim
    )


def of_table(table: Any) -> ImageSet:
    """The images of a `datasets.Dataset`, of the size that they have, with its labels or masks."""
    source = from_tables("the data set", given_tables(table))
    split = source.splits["train"]
    adapter = adapter_of(split.pixels)
    values = source.masks.values() if source.masks else None
    return ImageSet(
        split.pixels, split.labels, adapter, name=source.name, masks=split.masks, values=values
    )


class _Slices:
    """All images, and perhaps all labels, cut into batches."""

    def __init__(self, source: Any, batch_size: int):
        self.source, self.batch_size = source, batch_size
        self.images, self.labels = image_and_label(source, "the source")

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(self.images), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self.images[part], None if self.labels is None else self.labels[part]


class _Checked:
    """Batches of a foreign source, each checked before it is passed on; empty ones are left out."""

    def __init__(self, source: Iterable[Any]):
        self.source, self.read = source, False

    def __len__(self) -> int:
        if isinstance(self.source, Sized):
            return len(self.source)
        raise TypeError(f"{type(self.source).__name__} has no length")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        number = -1
        for number, batch in enumerate(_collated(self.source)):
            image, label = as_batch(batch, f"batch {number}")
            if len(image):
                yield image, label
        if number < 0 and self.read:
            raise ValueError(
                f"{type(self.source).__name__} gave no batch when it was read again; give what can "
                "be read more than once"
            )
        self.read = True


def _collated(source: Iterable[Any]) -> Iterator[Any]:
    """Yields the batches of a source; an error says why its loader cannot put samples together."""
    try:
        yield from source
    except (TypeError, RuntimeError) as error:
        if not isinstance(source, DataLoader):
            raise
        raise ValueError(
            f"the loader cannot put samples together ({one_line(error)[:200]}); give images as "
            "tensors [C, H, W] of one size and labels as numbers"
        ) from error


def mean_std(images: Iterable[tuple[Tensor, Tensor]] | ImageSet) -> tuple[list, list]:
    """Mean and standard deviation of each channel, of pixels in 0…1, in one pass."""
    count, total, square = 0, 0.0, 0.0
    for image, _ in batches(images):
        x = image.double().transpose(0, 1).flatten(1)
        count += x.shape[1]
        total, square = total + x.sum(1), square + x.square().sum(1)
    if not isinstance(total, Tensor) or not isinstance(square, Tensor):
        raise ValueError("no images: the data set or the loader gave no batch")
    mean = total / count
    return mean.tolist(), (square / count - mean.square()).clamp_min(0).sqrt().tolist()


AT_ONCE = 2**18
"""Largest number of pixels that pass the network at once."""


def per_pixel(source: Any) -> bool:
    """Whether a source's labels are maps; reads one sample or batch unless it is an `ImageSet`."""
    if isinstance(source, ImageSet):
        return source.dense
    if isinstance(source, Tensor | np.ndarray):
        return False
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        if isinstance(source, Sized) and not len(source):
            return False
        _, label = image_and_label(source[0], "sample 0")
        # As a batch of one, in which a map has three dimensions.
        return label is not None and as_labels(np.asarray(label)[None], "sample 0").dim() > 1
    return next((label.dim() > 1 for _, label in batches(source)), False)


def images_at_once(source: Any, batch_size: int = 256) -> int:
    """Images per pass: at most `AT_ONCE` pixels where they are labelled one by one."""
    if not isinstance(source, ImageSet):
        return min(batch_size, 4)
    height, width = source.adapter.size
    return max(1, min(batch_size, AT_ONCE // (height * width)))
