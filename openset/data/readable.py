"""The images of a set that can be read, whatever the others are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from openset.data.images import ImageSet


class Readable:
    """Batches of (image, position in the set) that leave out what cannot be read.

    One broken file at the end then costs none of those before it. Each pass reads every image once.

    Args:
        images: The set.
        batch_size: Images per batch.

    Example:
        >>> images = ImageSet(torch.zeros(3, 1, 8, 8))
        >>> [position.tolist() for _, position in Readable(images, 2)]
        [[0, 1], [2]]
    """

    def __init__(self, images: ImageSet, batch_size: int = 256):
        self.images, self.batch_size = images, batch_size
        self.skipped: list[str] = []
        """What was wrong with each image that the last pass left out."""

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.skipped = []
        for start in range(0, len(self), self.batch_size):
            positions = range(start, min(start + self.batch_size, len(self)))
            try:
                image, good = self.images.read(positions)[0], list(positions)
            except ValueError:
                image, good = self._one_by_one(positions)
            if good:
                yield image.float().div_(255), torch.tensor(good)

    def _one_by_one(self, positions: Sequence[int]) -> tuple[Tensor, list[int]]:
        found: dict[int, Tensor] = {}
        for position in positions:
            try:
                found[position] = self.images.read([position])[0]
            except ValueError as error:
                self.skipped.append(str(error))
        return torch.cat([*found.values()]) if found else torch.empty(0), [*found]
