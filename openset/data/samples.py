"""Training images by index: decoded once and kept on the device, or read as they are needed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

from openset.activations import VOID
from openset.data.batch import (
    as_labels,
    as_tensor,
    check_images,
    check_shape,
    collate,
    image_and_label,
)
from openset.data.loaders import is_pair, of_table
from openset.processes import Processes

HELD_BYTES = 4 * 2**30
"""Images that take more than this as uint8 are read batch by batch instead of kept."""


class Samples:
    """Images and labels by index, on the device, as float images in 0…1.

    Args:
        labels: One label per image, `[N]`, on the CPU; `VOID` where pixels are labelled.
        read: From indices to images (uint8 or float) and labels, on any device.
        device: Where batches are put.
    """

    def __init__(
        self, labels: Tensor, read: Callable[[Tensor], tuple[Tensor, Tensor]], device: torch.device
    ):
        self.labels = labels
        self.device = device
        self._read = read

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images `[B, C, H, W]` and labels `[B, *grid]` at these indices."""
        image, label = self._read(indices)
        image = image.to(self.device, non_blocking=True)
        image = image.float() if image.is_floating_point() else image.float() / 255
        return image, label.to(self.device, non_blocking=True).long()

    def batches(self, batch_size: int, indices: Tensor | None = None) -> Batches:
        """The samples at these indices, or all in their order; may be iterated again."""
        return Batches(self, torch.arange(len(self)) if indices is None else indices, batch_size)

    def summary(self) -> dict[str, int]:
        """The number of images and a checksum of the labels: all that is cheap to know of them."""
        return summary(self.labels)


def summary(labels: Tensor) -> dict[str, int]:
    """The number of labels and a checksum of them."""
    return {"images": len(labels), "labels": zlib.crc32(labels.numpy().tobytes())}


class Batches:
    """Chosen samples, batch by batch, as often as they are asked for."""

    def __init__(self, samples: Samples, indices: Tensor, batch_size: int):
        self.samples = samples
        self.indices = indices.split(batch_size)

    def __len__(self) -> int:
        return len(self.indices)

    def share(self, group: Processes) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches that are this process's to look at."""
        yield from map(self.samples.take, group.share(self.indices))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in self.indices:
            yield self.samples.take(indices)


def samples(source: Any, device: torch.device) -> Samples:
    """Makes samples of an ImageSet, a Dataset of (image, label), a DataLoader or a list of batches.

    Of a DataLoader the data set and the collation are used, not the order. A foreign data set is
    read anew for every batch, because its transforms may be random.

    Raises:
        ValueError: If there are no samples, or if they cannot be read by index.
    """
    put: Callable = collate
    if type(source).__module__.startswith("datasets."):
        source = of_table(source)
    if isinstance(source, DataLoader):
        put = collate if source.collate_fn is default_collate else source.collate_fn
        source = source.dataset
    if isinstance(source, Sized) and not len(source):
        raise ValueError("the training set is empty; check the data set's name, split and classes")
    if put is not collate:
        return _by_item(source, device, put)
    if hasattr(source, "take") and hasattr(source, "images"):
        return _of_image_set(source, device)
    if isinstance(source, TensorDataset):
        return _held([source.tensors], device)
    if is_pair(source):
        return _held([source], device)
    if isinstance(source, list | tuple):
        return _held(source, device)
    return _by_item(source, device, put)


def _held(batches: Sequence[Any], device: torch.device) -> Samples:
    """Batches that are in memory, put together; uint8 images stay so."""
    found = [_labelled(batch, f"training batch {i}") for i, batch in enumerate(batches)]
    images, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    images, on_device = images.to(device), labels.to(device)

    def read(indices: Tensor) -> tuple[Tensor, Tensor]:
        indices = indices.to(device, non_blocking=True)  # Nothing waits for the device here.
        return images[indices], on_device[indices]

    return Samples(_per_image(labels), read, device)


def _labelled(batch: Any, name: str) -> tuple[Tensor, Tensor]:
    image, label = image_and_label(batch, name)
    if label is None:
        raise ValueError(f"{name} has no labels; give pairs (image, label) to train on")
    image = as_tensor(image, f"{name} has images that are")
    (check_shape if image.dtype == torch.uint8 else check_images)(image, name)
    label = as_labels(label, name)
    if len(image) != len(label):
        raise ValueError(f"{name} has {len(image)} images but {len(label)} labels")
    return image, label


def _of_image_set(source: Any, device: torch.device) -> Samples:
    if source.dense:
        # A map of labels says nothing of the order, and all maps together are large.
        return Samples(torch.full((len(source),), VOID), source.take, device)
    if source.fits and source.nbytes <= HELD_BYTES:
        return _held([(source.images, source.labels)], device)
    return Samples(source.labels, source.take, device)


def _by_item(source: Any, device: torch.device, put: Callable) -> Samples:
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
        raise ValueError(
            f"cannot train on {type(source).__name__}: it cannot be read by index; give an "
            "ImageSet, a Dataset with __len__ and __getitem__, a DataLoader or a list of batches"
        )

    def read(indices: Tensor) -> tuple[Tensor, Tensor]:
        return _labelled(put([source[i] for i in indices.tolist()]), "a training batch")

    return Samples(_per_image(_labels(source)), read, device)


def _labels(source: Any) -> Tensor:
    """All labels of a foreign data set: its own list, if it keeps one, or read item by item."""
    for name in ("labels", "targets"):
        listed = getattr(source, name, None)
        changed = getattr(source, "target_transform", None) is not None
        if listed is not None and len(listed) == len(source) and not changed:
            return as_labels(listed, "the training set")
    labels = [_label_of(source[i], f"training sample {i}") for i in range(len(source))]
    return torch.stack(labels)


def _label_of(sample: Any, name: str) -> Tensor:
    """The label of one sample as a number; `VOID` for a map of them."""
    label = image_and_label(sample, name)[1]
    if label is None:
        raise ValueError(f"{name} has no label; give pairs (image, label) to train on")
    labels = as_labels(np.asarray(label)[None], name)
    return labels[0] if labels.dim() == 1 else torch.tensor(VOID)


def _per_image(labels: Tensor) -> Tensor:
    """One label per image on the CPU, for the order of samples; a label map has none."""
    labels = labels.detach().cpu()
    return labels.long() if labels.dim() == 1 else torch.full((len(labels),), VOID)
