"""Reads the images of a set that can be read, and passes over the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from openset.data.images import ImageSet

Read = tuple[Tensor, list[int], list[str]]
"""Images, their positions in the set, and what was wrong with the others of the batch."""


class Readable:
    """Batches of (image, position in the set) that leave out what cannot be read.

    One broken file at the end then costs none of those before it. Each pass reads every image once,
    and a batch is read while the one before it is worked on.

    Args:
        images: The set.
        batch_size: Images per batch.

    Example:
        >>> images = ImageSet(torch.zeros(3, 1, 8, 8))
        >>> [position.tolist() for _, position in Readable(images, 2)]
        [[0, 1], [2]]
    """

    def __init__(self, images: ImageSet, batch_size: int = 256):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1")
        self.images, self.batch_size = images, batch_size
        self.skipped: list[str] = []
        """Messages on what was wrong with each image that the last pass left out."""
        self.done: Callable[[int], object] = lambda count: None
        """Callback that gets the number of images that were worked on, batch after batch."""

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.skipped = []
        for positions, (image, good, skipped) in self._ahead():
            self.skipped += skipped
            if good:
                yield image.float().div_(255), torch.tensor(good)
            self.done(len(positions))

    def _ahead(self) -> Iterator[tuple[range, Read]]:
        """Each batch's positions with what was read; one alone needs no thread."""
        starts = range(0, len(self), self.batch_size)
        parts = [range(i, min(i + self.batch_size, len(self))) for i in starts]
        if len(parts) == 1:
            yield parts[0], self._read(parts[0])
            return
        with ThreadPoolExecutor(1) as pool:
            waiting: Future[Read] | None = pool.submit(self._read, parts[0]) if parts else None
            for i, positions in enumerate(parts):
                assert waiting is not None
                found = waiting.result()
                waiting = pool.submit(self._read, parts[i + 1]) if i + 1 < len(parts) else None
                yield positions, found

    def _read(self, positions: range) -> Read:
        try:
            return self.images.read(positions)[0], [*positions], []
        except ValueError:
            return self._one_by_one(positions)

    def _one_by_one(self, positions: Sequence[int]) -> Read:
        found: dict[int, Tensor] = {}
        skipped: list[str] = []
        for position in positions:
            try:
                found[position] = self.images.read([position])[0]
            except ValueError as error:
                skipped.append(str(error))
        return torch.cat([*found.values()]) if found else torch.empty(0), [*found], skipped
