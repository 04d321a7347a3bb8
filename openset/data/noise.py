"""Noise as an unknown set: pictures of nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from openset.data.adapter import Adapter
from openset.data.pixels import short_hash

NOISES: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "gaussian-noise": lambda shape, generator: (
        torch.randn(shape, generator=generator).add_(0.5).clamp_(0, 1)
    ),
    "uniform-noise": lambda shape, generator: torch.rand(shape, generator=generator),
}
"""Each noise's pixels in 0…1: N(0.5, 1) clipped, as in ODIN's code, and U(0, 1)."""


class Noise:
    """Images of noise, each made from its own seed when it is read.

    Args:
        kind: A key of `NOISES`.
        count: How many images.
        seed: Two sets of one seed are the same.
    """

    def __init__(self, kind: str, count: int = 10_000, seed: int = 0):
        self.kind, self.count, self.seed = kind, count, seed

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int], adapter: Adapter) -> Tensor:
        out = torch.empty(len(indices), *adapter.shape, dtype=torch.uint8)
        for row, i in zip(out, indices, strict=True):
            row.copy_(self._image(i, adapter.shape))
        return out

    def _image(self, index: int, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        return NOISES[self.kind](shape, generator).mul_(255).round_().byte()

    def shape(self, index: int) -> tuple[int, int, int]:
        raise ValueError(f"{self.kind} has no size of its own; it takes that of a trained model")

    def path(self, index: int) -> str:
        return f"{self.kind}[{index}]"

    @property
    def fingerprint(self) -> str:
        return short_hash(f"{self.kind} {self.count} {self.seed}")
