"""Noise as an unknown set: images of noise alone, and images with noise added."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from openset.data.adapter import Adapter
from openset.data.pixels import Pixels, short_hash

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
        count: Number of images.
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
        return NOISES[self.kind](shape, seeded(self.seed, index)).mul_(255).round_().byte()

    def shape(self, index: int) -> tuple[int, int, int]:
        raise ValueError(f"{self.kind} has no size of its own; it takes that of a trained model")

    def path(self, index: int) -> str:
        return f"{self.kind}[{index}]"

    @property
    def fingerprint(self) -> str:
        return short_hash(f"{self.kind} {self.count} {self.seed}")


class Noisy:
    """Images with uniform noise added, each from its own seed; what leaves 0…1 is cut off.

    Added to MNIST it is "MNIST-noise", on which VMDLS and others before it are compared.

    Args:
        pixels: The images.
        amount: U(0, amount) is added to each pixel in 0…1.
        seed: Two sets of one seed are the same.
    """

    def __init__(self, pixels: Pixels, amount: float, seed: int = 0):
        self.pixels, self.amount, self.seed = pixels, amount, seed

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Sequence[int], adapter: Adapter) -> Tensor:
        out = self.pixels.read(indices, adapter)
        for row, i in zip(out, indices, strict=True):
            noise = torch.rand(row.shape, generator=seeded(self.seed, int(i)))
            row.copy_((row + noise * (255 * self.amount)).round_().clamp_(0, 255))
        return out

    def shape(self, index: int) -> tuple[int, int, int]:
        return self.pixels.shape(index)

    def path(self, index: int) -> str:
        return f"{self.pixels.path(index)} with noise"

    @property
    def fingerprint(self) -> str:
        return short_hash(f"{self.pixels.fingerprint} {self.amount} {self.seed}")


def seeded(seed: int, index: int) -> torch.Generator:
    """The source of one image's noise."""
    return torch.Generator().manual_seed(seed * 1_000_003 + index)
