"""Outliers pasted into training images whose pixels are labelled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openset.activations import UNKNOWN

SMALLEST, LARGEST = 1 / 8, 9 / 32
"""Sides of a patch as shares of the crop: 64…144 pixels of 512."""


def sides(crop: tuple[int, int], stride: int) -> list[int]:
    """The sides that a patch may have: multiples of `stride`, from 1/8 to 9/32 of the crop.

    Raises:
        ValueError: If the crop is too small for any.

    Example:
        >>> sides((512, 512), stride=8)
        [64, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144]
    """
    shorter = min(crop)
    first = -(-round(SMALLEST * shorter) // stride) * stride
    found = list(range(max(first, stride), round(LARGEST * shorter) + 1, stride))
    if not found:
        raise ValueError(
            f"crops of {crop[0]}×{crop[1]} have no room for a patch whose side is a multiple of "
            f"{stride} and at most 9/32 of theirs; take larger images, or fewer squeezes"
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
    def draw(cls, image: Tensor, stride: int) -> Patches:
        """One square for each image, its side and its places uniform."""
        height, width = image.shape[-2:]
        choices = sides((height, width), stride)
        side = choices[int(torch.randint(len(choices), ()))]
        n = len(image)
        top, left = torch.randint(height - side + 1, (n,)), torch.randint(width - side + 1, (n,))
        return cls(top.to(image.device), left.to(image.device), side)

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

    def _batch(self) -> Tensor:
        return torch.arange(len(self.top), device=self.top.device)[:, None, None]

    def _indices(self) -> tuple[Tensor, Tensor]:
        steps = torch.arange(self.side, device=self.top.device)
        rows = self.top[:, None] + steps
        columns = self.left[:, None] + steps
        return rows[:, :, None], columns[:, None, :]


def _format(image: Tensor) -> torch.memory_format:
    last = image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
