"""Pictures that lie in no data set: files, bytes, PIL images, arrays and tensors, one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from openset.data.adapter import Adapter
from openset.data.decode import check_file, open_picture, shown
from openset.data.folders import find_images
from openset.data.modes import to_pil
from openset.data.pixels import filled, short_hash

Item = Path | bytes | Image.Image | np.ndarray | Tensor
"""One picture: a file, the content of one, or its pixels as `Adapter` takes them."""


class Loose:
    """A source of pixels (`Pixels`) made of whatever pictures are at hand.

    Args:
        items: The pictures; `gathered` finds them.
        workers: Threads that decode; None for one a core.
        names: The name by which a person finds each picture; a file's is its path by default.

    Example:
        >>> pixels = Loose([np.zeros((9, 9), np.uint8), Image.new("RGB", (5, 4))])
        >>> pixels.read([0, 1], Adapter((8, 8), channels=1)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        items: Sequence[Item],
        workers: int | None = None,
        names: Sequence[str] | None = None,
    ):
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}; give at least 1")
        self.items, self.workers, self.names = items, workers, names

    def __len__(self) -> int:
        return len(self.items)

    def read(self, indices: Sequence[int], adapter: Adapter) -> Tensor:
        def one(i: int) -> Tensor:
            item = self.items[indices[i]]
            if isinstance(item, bytes | Path):
                return adapter.open(item, self.path(indices[i]))
            try:
                return adapter(item)
            except ValueError as error:
                raise ValueError(f"{self.path(indices[i])}: {error}") from error

        return filled(len(indices), adapter.shape, one, self.workers)

    def shape(self, index: int) -> tuple[int, int, int]:
        item = self.items[index]
        if isinstance(item, bytes | Path):
            item = open_picture(item, self.path(index))
        picture = item if isinstance(item, Image.Image) else to_pil(item)
        grey = picture.mode in ("1", "L", "LA", "F") or picture.mode.startswith("I")
        return 1 if grey else 3, picture.height, picture.width

    def named(self, index: int) -> bool:
        """Whether a picture has a name outside this list."""
        return self.names is not None or isinstance(self.items[index], Path)

    def path(self, index: int) -> str:
        item = self.items[index]
        if self.names is not None:
            return self.names[index]
        if isinstance(item, Path):
            return shown(item)
        return f"images[{index}]" if len(self) > 1 else "the image"

    @property
    def fingerprint(self) -> str:
        return short_hash(*map(_content, self.items))


def gathered(images: Any) -> list[Item]:
    """The pictures that anything stands for: paths, folders, globs, batches, lists of any of them.

    Raises:
        ValueError: For what is no picture, and for paths without images.
    """
    if isinstance(images, str | os.PathLike):
        return [*find_images([os.fspath(images)])]
    if isinstance(images, bytes | bytearray | memoryview):
        return [bytes(images)]
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor):
        return [images] if images.ndim < 4 else [*images]
    if isinstance(images, Iterable) and not isinstance(images, dict):
        return [item for each in images for item in gathered(each)]
    raise ValueError(
        f"a {type(images).__name__} is no picture; give paths, folders, PIL images, bytes, arrays, "
        "tensors, or a list of them"
    )


def _content(item: Item) -> bytes:
    if isinstance(item, Path):
        check_file(item)
        return item.read_bytes()
    if isinstance(item, Tensor):
        item = item.detach().cpu().numpy()
    return item if isinstance(item, bytes) else item.tobytes()
