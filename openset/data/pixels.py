"""Where the pixels of an image set come from: a tensor, or encoded files in an Arrow table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from openset.data.adapter import Adapter, open_picture, to_uint8

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

CHUNK = 256
"""Images per task of the decoding threads: small ones would otherwise only wait for each other."""


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
        """What names an image to a person: its file, or the set and its index."""
        ...

    @property
    def fingerprint(self) -> str:
        """A short hash of the content."""
        ...


class Arrays:
    """Images in memory.

    Args:
        images: uint8, or floats in 0…1 which are rounded to uint8; `[N, C, H, W]`.
        name: What error messages call the set.
    """

    def __init__(self, images: Tensor, name: str = "images"):
        if images.dim() != 4:
            raise ValueError(f"{name} have shape {tuple(images.shape)}; give [N, C, H, W]")
        self.name = name
        self.images = torch.from_numpy(to_uint8(images.detach().cpu().numpy()))

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int], adapter: Adapter) -> Tensor:
        chosen = self.images[torch.as_tensor(indices, dtype=torch.long)]
        if tuple(chosen.shape[1:]) == adapter.shape:
            return 255 - chosen if adapter.invert else chosen
        return _filled(len(chosen), adapter.shape, lambda i: adapter(chosen[i]))

    def shape(self, index: int) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def path(self, index: int) -> str:
        return f"{self.name}[{index}]"

    @cached_property
    def fingerprint(self) -> str:
        return short_hash(str(tuple(self.images.shape)), self.images.contiguous().numpy().data)


class Encoded:
    """Encoded images in a column of a Hugging Face data set, decoded when they are read.

    Args:
        dataset: The memory-mapped table.
        column: Its column of feature type `Image`.
        name: What error messages call the set.
    """

    def __init__(self, dataset: Dataset, column: str, name: str = "images"):
        from datasets import Image as ImageFeature

        self.name = name
        self.column = column
        raw = dataset.select_columns(column).cast_column(column, ImageFeature(decode=False))
        self.table = raw.with_format("arrow")

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
        return _filled(len(cells), shape, lambda i: adapt(self._picture(cells[i], int(indices[i]))))

    def shape(self, index: int) -> tuple[int, int, int]:
        picture = self._picture(self._cells([index])[0], index)
        grey = picture.mode in ("1", "L", "LA", "F") or picture.mode.startswith("I")
        return 1 if grey else 3, picture.height, picture.width

    def path(self, index: int) -> str:
        return self._named(self._cells([index])[0], index)

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for start in range(0, len(self), CHUNK):
            for cell in self._cells(range(start, min(start + CHUNK, len(self)))):
                content = _content(cell)
                digest.update(len(content).to_bytes(8, "little"))
                digest.update(content)
        return digest.hexdigest()

    def _cells(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return self.table[list(indices)].column(0).to_pylist()

    def _picture(self, cell: dict[str, Any], index: int) -> Image.Image:
        if cell["bytes"] is not None:
            return open_picture(cell["bytes"], self._named(cell, index))
        return open_picture(cell["path"])

    def _named(self, cell: dict[str, Any], index: int) -> str:
        if cell["bytes"] is None:
            return cell["path"]
        return f"{self.name}[{index}]" + (f" ({cell['path']})" if cell["path"] else "")


def _content(cell: dict[str, Any]) -> bytes:
    if cell["bytes"] is not None:
        return cell["bytes"]
    with open(cell["path"], "rb") as file:
        return file.read()


def _filled(count: int, shape: tuple[int, ...], read: Callable[[int], Tensor]) -> Tensor:
    """A uint8 tensor `[count, *shape]` whose item i is `read(i)`; Pillow decodes in threads."""
    out = torch.empty(count, *shape, dtype=torch.uint8)
    array = out.numpy()

    def fill(start: int) -> None:
        for i in range(start, min(start + CHUNK, count)):
            array[i] = read(i).numpy()

    starts = range(0, count, CHUNK)
    workers = min(len(starts), os.cpu_count() or 1)
    if workers < 2:
        for start in starts:
            fill(start)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(fill, starts))
    return out


def short_hash(*parts: Any) -> str:
    """16 hexadecimal digits that stand for strings and buffers."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()
