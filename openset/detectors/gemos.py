"""GeMOS: one generative model per class over the pooled activations of the whole network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from torch import Tensor

from openset.activations import Activations
from openset.densities import DENSITIES, Density
from openset.detectors.base import Detector, Rows, choose_layers
from openset.names import build


class GeMOS(Detector):
    """How surprising an image's activations are under the generative model of its predicted class.

    Vendramini et al., 2021, https://arxiv.org/abs/2105.10013. Each class's model is fitted on the
    training rows that the network classifies correctly as that class.

    Args:
        density: The generative model: a `Density`, or its name such as "pca".
        layers: The layers to read, side by side; None for all stages, penultimate and logits.

    Example:
        >>> import torch
        >>> logits = torch.eye(2).repeat(50, 1) * 9
        >>> batch = Activations(logits, {"penultimate": torch.randn(100, 3)}, logits.argmax(1))
        >>> GeMOS("gaussian-mixture:components=1").fit([batch]).score(batch).shape
        torch.Size([100])
    """

    name = "gemos"

    def __init__(
        self,
        density: Density | str = "gaussian-mixture",
        layers: Sequence[str] | None = None,
    ):
        super().__init__()
        self.density: Density = (
            build("density", DENSITIES, density) if isinstance(density, str) else density
        )
        self.layers = layers

    def fit(self, batches: Iterable[Activations]) -> Self:
        self.layers = choose_layers(batches, self.layers)
        rows = Rows(batches, self.layers, correct=True)
        self.density.fit_classes(rows, rows.classes)
        return self

    def score(self, rows: Activations) -> Tensor:
        return self.density(rows.stacked(self.layers), rows.logits.argmax(1))
