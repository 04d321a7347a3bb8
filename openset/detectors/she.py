"""SHE: how much an image's features are like the pattern of the predicted class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from torch import Tensor

from openset.activations import Activations
from openset.densities.base import need_rows
from openset.detectors.base import Detector
from openset.detectors.rows import Rows
from openset.moments import Moments


class SHE(Detector):
    """Scores an image by the inner product of its features with its class's pattern, negated.

    Zhang et al., 2023, https://openreview.net/forum?id=KkazG4lgKL, a simplified Hopfield energy:
    the pattern of a class is the mean of the features of its correctly classified training images.
    One pass, constant memory.

    Example:
        >>> import torch
        >>> x = torch.eye(2) * 3
        >>> batch = Activations(x, {"penultimate": x}, torch.arange(2))
        >>> SHE().fit([batch]).score(batch).tolist()
        [-9.0, -9.0]
    """

    layers = ("penultimate",)
    patterns: Tensor

    def fit(self, batches: Iterable[Activations]) -> Self:
        rows = Rows(batches, self.layers, correct=True)
        moments = Moments.of(rows, rows.classes, "diag")
        need_rows(moments.count, 1, self, "give more images that the network classifies correctly")
        self.keep(patterns=moments.mean.float())
        return self

    def score(self, rows: Activations) -> Tensor:
        x = rows.stacked(self.layers)
        return -(x * self.patterns.to(x.dtype)[rows.logits.argmax(1)]).sum(1)
