"""Labelled images as every part of openset takes them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from openset.activations import UNKNOWN
from openset.data.adapter import Adapter
from openset.data.pixels import Arrays, Encoded, Pixels, adapter_of, short_hash

MEMORY_SHARE = 0.25
"""Share of the machine's memory that one decoded image set may take; larger ones stream."""


class ImageSet(Dataset):
    """Images of one size with a label each, decoded once when small and streamed when not.

    Args:
        images: A tensor `[N, C, H, W]`, uint8 or floats in 0…1, or a source of pixels.
        labels: One label per image `[N]`, or None for `UNKNOWN`.
        adapter: Turns pixels into a tensor; by default images stay as they are.
        name: Name of the set in results and errors.
        indices: The images of the source that the set holds; all by default.
        masks: The source of the masks where labels are per pixel.
        values: The label of each of the 256 mask values, int64 `[256]`.

    Example:
        >>> images = ImageSet(torch.zeros(5, 1, 8, 8), torch.arange(5))
        >>> for image, label in images.batches(4):
        ...     print(tuple(image.shape), label.tolist())
        (4, 1, 8, 8) [0, 1, 2, 3]
        (1, 1, 8, 8) [4]
    """

    def __init__(
        self,
        images: Tensor | Pixels,
        labels: Tensor | None = None,
        adapter: Adapter | None = None,
        *,
        name: str = "images",
        indices: Tensor | None = None,
        masks: Encoded | None = None,
        values: Tensor | None = None,
    ):
        self.pixels: Pixels = Arrays(images, name) if isinstance(images, Tensor) else images
        self.adapter = adapter or adapter_of(self.pixels)
        self.name = name
        self.indices = torch.arange(len(self.pixels)) if indices is None else indices
        self.masks = masks
        self.values = torch.arange(256) if values is None else values
        self.skipped: list[str] = []
        self._labels = torch.full((len(self),), UNKNOWN) if labels is None else labels.long()
        self._decoded: Tensor | None = None
        self._decoded_masks: Tensor | None = None
        if len(self._labels) != len(self):
            raise ValueError(
                f"{name}: {len(self)} images but {len(self._labels)} labels; give one label each"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        image, label = self.read([index % len(self)])
        return image[0].float() / 255, label[0] if self.dense else int(label)

    def __repr__(self) -> str:
        return f"ImageSet({self.name!r}, {len(self)} images of {self.adapter.shape})"

    @property
    def dense(self) -> bool:
        """Whether labels are per pixel."""
        return self.masks is not None

    @property
    def nbytes(self) -> int:
        """Memory that the decoded images take, with their masks."""
        channels, height, width = self.adapter.shape
        return len(self) * (channels + self.dense) * height * width

    @property
    def fits(self) -> bool:
        """Whether the decoded images may be kept in memory."""
        return self.nbytes <= MEMORY_SHARE * memory()

    @property
    def images(self) -> Tensor:
        """All images, uint8 `[N, C, H, W]`, decoded at the first use and kept.

        Raises:
            ValueError: If they would take more than `MEMORY_SHARE` of the memory.
        """
        if self._decoded is None:
            if not self.fits:
                raise ValueError(
                    f"{self.name}: {len(self)} decoded images take {self.nbytes / 2**30:.1f} GiB, "
                    f"over {MEMORY_SHARE:.0%} of the memory; read them by batches() or take()"
                )
            self._decoded = self.pixels.read(self.indices.tolist(), self.adapter)
        return self._decoded

    @property
    def labels(self) -> Tensor:
        """Labels, int64 `[N]`, or `[N, H, W]` where they are per pixel."""
        if self.masks is None:
            return self._labels
        return self.values[self._keep_masks(self.masks).long()]

    @property
    def paths(self) -> list[str]:
        """The name by which a person finds each image: its file, or the set and its index."""
        return [self.pixels.path(i) for i in self.indices.tolist()]

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of pixels, labels and adapter, the same on every machine."""
        labels = self._labels if self.masks is None else self.values
        settings = str(sorted(self.adapter.settings().items()))
        masks = self.masks.fingerprint if self.masks is not None else ""
        parts = [x.contiguous().numpy().data for x in (self.indices, labels)]
        return short_hash(self.pixels.fingerprint, masks, settings, *parts)

    def read(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The chosen images, uint8 `[n, C, H, W]`, and their labels; keeps nothing in memory."""
        chosen = torch.as_tensor(positions, dtype=torch.long)
        rows = self.indices[chosen].tolist()
        if self._decoded is not None:
            images = self._decoded[chosen]
        else:
            images = self.pixels.read(rows, self.adapter)
        if self.masks is None:
            return images, self._labels[chosen]
        if self._decoded_masks is not None:
            masks = self._decoded_masks[chosen]
        else:
            masks = self.masks.read_masks(rows, self.adapter)
        return images, self.values[masks.long()]

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """As `read`, for many passes: decodes all images at the first call if they fit."""
        if self.fits:
            _ = self.images
            if self.masks is not None:
                self._keep_masks(self.masks)
        return self.read(positions.tolist())

    def batches(self, batch_size: int = 256) -> Batches:
        """All images in order as re-iterable (float image `[N, C, H, W]` in 0…1, label `[N]`)."""
        return Batches(self, batch_size)

    def subset(self, positions: Tensor | Sequence[int], name: str | None = None) -> Self:
        """The images at some positions, as a set of its own; decoded images stay decoded."""
        chosen = torch.as_tensor(positions)
        chosen = chosen.nonzero().squeeze(1) if chosen.dtype == torch.bool else chosen.long()
        return self._copy(chosen, self._labels[chosen], name or self.name)

    def with_labels(self, labels: Tensor | int) -> Self:
        """The same images with other labels, one each `[N]` or one for all; masks are left."""
        new = torch.full((len(self),), labels) if isinstance(labels, int) else labels
        copy = self._copy(torch.arange(len(self)), new, self.name)
        copy.masks = copy._decoded_masks = None
        return copy

    def _keep_masks(self, masks: Encoded) -> Tensor:
        if self._decoded_masks is None:
            self._decoded_masks = masks.read_masks(self.indices.tolist(), self.adapter)
        return self._decoded_masks

    def _copy(self, chosen: Tensor, labels: Tensor, name: str) -> Self:
        copy = type(self)(
            self.pixels,
            labels,
            self.adapter,
            name=name,
            indices=self.indices[chosen],
            masks=self.masks,
            values=self.values,
        )
        if self._decoded is not None:
            copy._decoded = self._decoded[chosen]
        if self._decoded_masks is not None:
            copy._decoded_masks = self._decoded_masks[chosen]
        return copy

    def without_bad(self) -> Self:
        """The images that can be read; `skipped` of the result says why each other one cannot."""
        good: list[int] = []
        skipped: list[str] = []
        for position in range(len(self)):
            try:
                self.read([position])
                good.append(position)
            except ValueError as error:
                skipped.append(str(error))
        readable = self if not skipped else self.subset(torch.tensor(good, dtype=torch.long))
        readable.skipped = skipped
        return readable


class Batches:
    """The images of a set in order, in batches, as often as they are asked for."""

    def __init__(self, images: ImageSet, batch_size: int):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1")
        self.images, self.batch_size = images, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        start = number * self.batch_size
        image, label = self.images.read(
            range(start, min(start + self.batch_size, len(self.images)))
        )
        return image.float().div_(255), label

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from (self[number] for number in range(len(self)))


def memory() -> int:
    """Bytes of memory that this process may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            limit = file.read().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
