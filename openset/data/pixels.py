"""Sources of an image set's pixels: a tensor, or encoded files in an Arrow table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from openset.data.adapter import Adapter
from openset.data.decode import check_file, open_picture, shown
from openset.data.modes import highest_deep, to_uint8

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image


TASK = 2**18
"""Pixels per task of the decoding threads."""


SMALL = 64 * 64
"""Images below so many pixels are decoded in one thread: most of their cost is Python's own."""


HASHED = 256
"""Encoded images that are in memory at once while a set is hashed."""


class Pixels(Protocol):
    """Images that can be read by index, each adapted on the way."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int], adapter: Adapter) -> Tensor:
        """The chosen images, uint8 `[n, C, H, W]`."""
        ...

    def shape(self, index: int) -> tuple[int, int, int]:
        """Channels, height and width of an image as it is stored."""
        ...

    def path(self, index: int) -> str:
        """The name by which a person finds an image: its file, or the set and its index."""
        ...

    @property
    def fingerprint(self) -> str:
        """A short hash of the content."""
        ...


class Arrays:
    """Images in memory.

    Args:
        images: uint8, or floats in 0…1 which are rounded to uint8; `[N, C, H, W]`.
        name: Name of the set in error messages.
    """

    def __init__(self, images: Tensor, name: str = "images"):
        if images.dim() != 4:
            raise ValueError(f"{name} have shape {tuple(images.shape)}; give [N, C, H, W]")
        self.name = name
        self.images = torch.from_numpy(to_uint8(images.detach().cpu().numpy(), name))

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int], adapter: Adapter) -> Tensor:
        chosen = self.images[torch.as_tensor(indices, dtype=torch.long)]
        channels, height, width = chosen.shape[1:]
        if channels == adapter.channels and adapter.leaves(height, width):
            return 255 - chosen if adapter.invert else chosen
        return filled(len(chosen), adapter.shape, lambda i: adapter(chosen[i]))

    def shape(self, index: int) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def path(self, index: int) -> str:
        return f"{self.name}[{index}]"

    @property
    def fingerprint(self) -> str:
        return short_hash(str(tuple(self.images.shape)), self.images.contiguous().numpy().data)


class Encoded:
    """Encoded images in a column of a Hugging Face data set, decoded when they are read.

    Args:
        dataset: The memory-mapped table.
        column: Its column of feature type `Image`, or of bytes and paths; a path may be bytes too,
            as names that are no UTF-8 must be.
        name: Name of the set in error messages.
    """

    def __init__(self, dataset: Dataset, column: str, name: str = "images"):
        from datasets import Image as ImageFeature

        self.name = name
        self.column = column
        raw = dataset.select_columns(column)
        if isinstance(raw.features[column], ImageFeature):
            raw = raw.cast_column(column, ImageFeature(decode=False))
        self.table: Any = raw.with_format("arrow")
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.table)

    def read(self, indices: Sequence[int], adapter: Adapter) -> Tensor:
        return self._decoded(indices, adapter.shape, adapter)

    def read_masks(self, indices: Sequence[int], adapter: Adapter) -> Tensor:
        """The chosen images as masks, uint8 `[n, H, W]`."""
        return self._decoded(indices, adapter.size, adapter.mask)

    def _decoded(
        self, indices: Sequence[int], shape: tuple[int, ...], adapt: Callable[[Any], Tensor]
    ) -> Tensor:
        cells = self._cells(indices)

        def one(i: int) -> Tensor:
            index = int(indices[i])
            picture = self._picture(cells[i], index)
            try:
                return adapt(picture)
            except ValueError as error:
                raise ValueError(f"{self._named(cells[i], index)}: {error}") from error

        return filled(len(cells), shape, one)

    def shape(self, index: int) -> tuple[int, int, int]:
        picture = self._picture(self._cells([index])[0], index)
        grey = picture.mode in ("1", "L", "LA", "F") or picture.mode.startswith("I")
        return 1 if grey else 3, picture.height, picture.width

    def path(self, index: int) -> str:
        return self._named(self._cells([index])[0], index)

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def _hash(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for start in range(0, len(self), HASHED):
            for cell in self._cells(range(start, min(start + HASHED, len(self)))):
                content = _content(cell)
                digest.update(len(content).to_bytes(8, "little"))
                digest.update(content)
        return digest.hexdigest()

    def pictures(self, rows: Sequence[int] | None = None) -> Iterator[Image.Image]:
        """Images, decoded one after another; those that cannot be read are passed over."""
        for i in range(len(self)) if rows is None else rows:
            try:
                yield self._picture(self._cells([i])[0], i)
            except ValueError:
                continue

    def highest(self) -> int:
        """The largest pixel value below 255 of all images read as masks."""
        arrays = map(np.asarray, self.pictures())
        return max((int(mask[mask < 255].max(initial=0)) for mask in arrays), default=0)

    def _cells(self, indices: Sequence[int]) -> list[dict[str, Any] | None]:
        return self.table[list(indices)].column(0).to_pylist()

    def _picture(self, cell: dict[str, Any] | None, index: int) -> Image.Image:
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise ValueError(f"{self.name}[{index}] holds no image; remove the row")
        if cell["bytes"] is not None:
            return open_picture(cell["bytes"], self._named(cell, index))
        return open_picture(os.fsdecode(cell["path"]))

    def _named(self, cell: dict[str, Any] | None, index: int) -> str:
        path = shown(os.fsdecode(cell["path"])) if cell and cell["path"] else ""
        if cell is not None and cell["bytes"] is None and path:
            return path
        return f"{self.name}[{index}]" + (f" ({path})" if path else "")


def _content(cell: dict[str, Any] | None) -> bytes:
    if cell is None or cell["bytes"] is None is cell["path"]:
        return b""
    if cell["bytes"] is not None:
        return cell["bytes"]
    path = os.fsdecode(cell["path"])
    check_file(path)
    return Path(path).read_bytes()


def filled(
    count: int, shape: tuple[int, ...], read: Callable[[int], Tensor], workers: int | None = None
) -> Tensor:
    """A uint8 tensor `[count, *shape]` whose item i is `read(i)`; Pillow decodes in threads.

    Args:
        count: Number of items.
        shape: The shape of each.
        read: Gives one.
        workers: Threads; None for one a core, or one alone where images are small.
    """
    out = torch.empty(count, *shape, dtype=torch.uint8)
    array = out.numpy()
    pixels = shape[-2] * shape[-1]
    step = max(1, TASK // pixels)

    def fill(start: int) -> None:
        for i in range(start, min(start + step, count)):
            array[i] = read(i).numpy()

    starts = range(0, count, step)
    if workers is None:
        workers = (os.cpu_count() or 1) if pixels >= SMALL else 1
    workers = min(len(starts), workers)
    if workers == 1:
        for start in starts:
            fill(start)
    elif count:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(fill, starts))
    return out


PROBED = 16
"""Images that are looked at to judge a whole set by."""


def adapter_of(
    pixels: Pixels, size: Any = None, channels: int | None = None, **way: Any
) -> Adapter:
    """The adapter that leaves images as they are, judged by some 16 of them.

    Args:
        pixels: The images.
        size: Height and width, or the side of a square, to bring them to instead.
        channels: 1 or 3 instead.
        way: Further settings of the adapter: `resize`, `interpolation`.

    Raises:
        ValueError: If they differ in size and no `size` is given, or if none can be read.
    """
    shapes = _shapes(pixels)
    sizes = sorted({shape[1:] for shape in shapes})
    if size is None and len(sizes) > 1:
        raise ValueError(
            f"images differ in size, such as {sizes[0]} and {sizes[-1]}; give size=(height, width)"
        )
    if isinstance(size, int):
        size = (size, size)
    return Adapter(size or sizes[0], channels or max(shape[0] for shape in shapes), **way)


def _shapes(pixels: Pixels) -> set[tuple[int, int, int]]:
    """Channels, height and width of some images; those that cannot be read are passed over."""
    if not len(pixels):
        raise ValueError("no images: the folder or the chosen part of the data set is empty")
    shapes: set[tuple[int, int, int]] = set()
    failure: ValueError | None = None
    for i in range(0, len(pixels), max(1, len(pixels) // PROBED)):
        try:
            shapes.add(pixels.shape(i))
        except ValueError as error:
            failure = error
    if failure is not None and not shapes:
        raise failure
    return shapes


def highest_pixel(pixels: Pixels, rows: Sequence[int]) -> int | None:
    """The largest pixel of images stored in 16 bits, all of which are read; None for other sets."""
    stored = getattr(pixels, "pixels", pixels)  # Noise may have been added.
    if not isinstance(stored, Encoded):
        return None
    probe = rows[:: max(1, len(rows) // PROBED)]
    if all(highest_deep(picture) is None for picture in stored.pictures(probe)):
        return None
    found = (highest_deep(picture) for picture in stored.pictures(rows))
    return max(highest for highest in found if highest is not None)


def short_hash(*parts: Any) -> str:
    """16 hexadecimal digits that stand for strings and buffers."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()
