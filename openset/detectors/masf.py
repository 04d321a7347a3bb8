"""MaSF: every channel tested by itself, a layer by its worst channels, the image by its layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log
from typing import Self

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.combinations import fisher, simes
from openset.detectors.ranks import TailRank
from openset.detectors.rows import Rows, choose_layers, known, sampled
from openset.fitted import NotFittedError
from openset.spec import Count


class MaSF(Detector):
    """Scores an image by the rarity of each channel's value, joined within and over the layers.

    Haroush et al., 2021, https://arxiv.org/abs/2102.12967 (max-Simes-Fisher), on pooled channels
    and without their classes: two-sided p-values of each channel among training images, Simes'
    p-value of a layer, ranked again among held-out known images, and Fisher's mean over the layers.

    Args:
        layers: The layers; None for all stages, the penultimate and the logits.
        max_rows: The most training images kept, a seeded sample of all.
        seed: Seed of the sample.

    Example:
        >>> x = torch.randn(60, 4)
        >>> batch = Activations(x[:, :3], {"stage1": x}, torch.arange(60) % 3)
        >>> MaSF().fit([batch]).adjust([batch]).score(batch).shape
        torch.Size([60])
    """

    name = "masf"
    held_out = True

    def __init__(self, layers: Sequence[str] | None = None, max_rows: Count = 5_000, seed: int = 0):
        super().__init__()
        self.layers, self.max_rows, self.seed = layers, max_rows, seed
        self.channels, self.ranks = TailRank(200), TailRank()

    def fit(self, batches: Iterable[Activations]) -> Self:
        self.found_layers = choose_layers(batches, self.layers)
        x = sampled(Rows(batches, self.found_layers), self.max_rows, self.seed)
        self.channels.fit([*x.T, *-x.T])
        return self

    def adjust(self, held_out: Iterable[Activations]) -> Self:
        surprise = torch.cat([self.surprise(known(batch)) for batch in held_out])
        self.ranks.fit(surprise.unbind(1))
        return self

    def surprise(self, rows: Activations) -> Tensor:
        """−log of each layer's p, before it is ranked, `[M, layers]`."""
        if self.found_layers is None:
            raise NotFittedError("MaSF is not fitted; call fit first")
        x = rows.stacked(self.found_layers)
        high, low = self.channels(torch.cat([x, -x], 1)).chunk(2, 1)
        widths = [rows.values(name).shape[1] for name in self.found_layers]
        layers = (torch.maximum(high, low) - log(2)).split(widths, 1)
        return torch.stack([simes(layer, alike(layer)) for layer in layers], 1)

    def score(self, rows: Activations) -> Tensor:
        surprise = self.ranks(self.surprise(rows))
        return fisher(surprise, alike(surprise))


def alike(surprise: Tensor) -> Tensor:
    """Equal weights for the columns of `[M, n]`."""
    return surprise.new_full((surprise.shape[1],), 1 / surprise.shape[1])
