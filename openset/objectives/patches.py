"""Outliers pasted into training images whose pixels are labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import UNKNOWN, VOID

SIDES = (1 / 8, 9 / 32)
"""Sides of a patch as shares of the crop: 64…144 pixels of 512."""


def sides(crop: tuple[int, int], stride: int, shares: Sequence[float] = SIDES) -> list[int]:
    """The sides that a patch may have: multiples of `stride` from one share of the crop to another.

    Raises:
        ValueError: If the crop is too small for any.

    Example:
        >>> sides((512, 512), stride=8)
        [64, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144]
    """
    shorter = min(crop)
    smallest, largest = shares
    first = -(-round(smallest * shorter) // stride) * stride
    found = list(range(max(first, stride), round(largest * shorter) + 1, stride))
    if not found:
        raise ValueError(
            f"crops of {crop[0]}×{crop[1]} have no room for a patch whose side is a multiple of "
            f"{stride}, from {smallest:.3g} to {largest:.3g} of theirs; take larger images, other "
            "sides, or fewer squeezes"
        )
    return found


@dataclass
class Patches:
    """A square in each image of a batch, to be cut out, pasted over and marked.

    Args:
        top: First row of each image's square `[N]`.
        left: First column `[N]`.
        side: Side of all squares of the batch.
    """

    top: Tensor
    left: Tensor
    side: int

    @classmethod
    def draw(
        cls, image: Tensor, stride: int, label: Tensor, shares: Sequence[float] = SIDES
    ) -> Patches:
        """One square for each image: its side uniform, its place too among those with least void.

        Args:
            image: `[N, C, H, W]`.
            stride: Pixels of which the side is a multiple.
            label: `[N, H, W]`.
            shares: Smallest and largest side, as shares of the image's shorter side.
        """
        choices = sides((image.shape[-2], image.shape[-1]), stride, shares)
        side = choices[int(torch.randint(len(choices), ()))]
        void = _inside(label == VOID, side)
        # Ties, as between all places without void, are broken at random.
        best = (void + torch.rand(void.shape, device=void.device) / 2).flatten(1).argmin(1)
        return cls(best // void.shape[2], best % void.shape[2], side)

    def cut(self, image: Tensor) -> Tensor:
        """Cuts the squares out of the images, `[N, C, side, side]`."""
        rows, columns = self._indices()
        return image.movedim(1, -1)[self._batch(), rows, columns].movedim(-1, 1)

    def paste(self, image: Tensor, patches: Tensor) -> Tensor:
        """The images with patches `[N, C, side, side]` in the squares; gradients reach both."""
        rows, columns = self._indices()
        pasted = image.movedim(1, -1).clone()
        pasted[self._batch(), rows, columns] = patches.movedim(1, -1).to(image.dtype)
        return pasted.movedim(-1, 1).contiguous(memory_format=_format(image))

    def mark(self, label: Tensor) -> Tensor:
        """The label maps `[N, H, W]` with `UNKNOWN` in the squares."""
        rows, columns = self._indices()
        marked = label.clone()
        marked[self._batch(), rows, columns] = UNKNOWN
        return marked

    def whole(self, label: Tensor) -> Tensor:
        """Whether each square of label maps `[N, H, W]` holds no void pixel, `[N]`."""
        rows, columns = self._indices()
        return (label[self._batch(), rows, columns] != VOID).flatten(1).all(1)

    def _batch(self) -> Tensor:
        return torch.arange(len(self.top), device=self.top.device)[:, None, None]

    def _indices(self) -> tuple[Tensor, Tensor]:
        steps = torch.arange(self.side, device=self.top.device)
        rows = self.top[:, None] + steps
        columns = self.left[:, None] + steps
        return rows[:, :, None], columns[:, None, :]


def _inside(marked: Tensor, side: int) -> Tensor:
    """Marked pixels `[N, H, W]` inside each square, by its first row and column; exact counts."""
    sums = F.pad(marked.double().cumsum(1).cumsum(2), [1, 0, 1, 0])
    rows = sums[:, side:] - sums[:, :-side]
    return rows[:, :, side:] - rows[:, :, :-side]


def _format(image: Tensor) -> torch.memory_format:
    last = image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
