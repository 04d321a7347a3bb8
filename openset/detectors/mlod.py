"""MLOD: the distance to training images on every layer, and the layers fused by Fisher's method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from torch import nn

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.fusion import Fusion
from openset.detectors.knn import KNN
from openset.detectors.rows import choose_layers
from openset.spec import Count


class MLOD(Fusion):
    """Scores an image by the mean −log p of its distances to training images, layer by layer.

    Li et al., 2024, https://arxiv.org/abs/2403.10803: a `KNN` on each layer, its p-values among
    held-out known images, and Fisher's combination of them; the smooth tail is `TailRank`'s.

    Args:
        k: Which neighbour.
        layers: The layers, each by itself; None for all stages, the penultimate and the logits.
        max_rows: The most training images kept.
        detectors: What a saved model holds; leave it out.

    Example:
        >>> import torch
        >>> x = torch.randn(60, 4)
        >>> batch = Activations(x[:, :3], {"stage1": x, "penultimate": x}, torch.arange(60) % 3)
        >>> [d.layers for d in MLOD(k=5).fit([batch]).detectors]
        [('stage1',), ('penultimate',), ('logits',)]
    """

    name = "mlod"

    def __init__(
        self,
        k: Count = 50,
        layers: Sequence[str] | None = None,
        max_rows: Count = 10_000,
        detectors: Sequence[Detector] | None = None,
    ):
        named = detectors or [KNN(k, (name,), max_rows) for name in layers or ("logits",) * 2]
        super().__init__(named)
        self.k, self.max_rows, self.layers = k, max_rows, layers

    def fit(self, batches: Iterable[Activations]) -> Self:
        chosen = choose_layers(batches, self.layers)
        self.detectors = nn.ModuleList(KNN(self.k, (n,), self.max_rows) for n in chosen)
        return super().fit(batches)
