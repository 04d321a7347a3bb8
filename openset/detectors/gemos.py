"""GeMOS: one generative model per class over the pooled activations of the whole network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Self

import torch
from torch import Tensor

from openset.activations import Activations
from openset.densities import DENSITIES, Density
from openset.densities.base import need_rows
from openset.detectors.base import Detector
from openset.detectors.ranks import TailRank
from openset.detectors.rows import Rows, choose_layers, distinct, known, peek
from openset.spec import build

LEAST = 5
"""Least number of held-out images of a class that its ranks need."""


class GeMOS(Detector):
    """Scores an image by the surprise of its activations in its predicted class's generative model.

    Vendramini et al., 2021, https://arxiv.org/abs/2105.10013. Each class's model is fitted on the
    training rows that the network classifies correctly as that class.

    A class whose images vary more surprises more. `calibration="quantile"` takes that out: the
    score is then −log p of the surprise among the class's own held-out known images (`TailRank`).

    Args:
        density: The generative model: a `Density`, or its name such as "pca".
        layers: The layers to read, side by side; None for all stages, penultimate and logits. Of
            layers that are the same tensor, as the last stage and the penultimate of a ResNet are,
            `fit` keeps one.
        calibration: "none", or "quantile" for one scale for all classes, learned by `adjust`.

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
        calibration: Literal["none", "quantile"] = "none",
    ):
        super().__init__()
        if calibration not in ("none", "quantile"):
            raise ValueError(f"calibration must be none or quantile; got {calibration!r}")
        self.density: Density = (
            build("density", DENSITIES, density) if isinstance(density, str) else density
        )
        self.layers = layers
        self.calibration = calibration
        self.held_out = calibration == "quantile"
        if self.held_out:
            self.ranks = TailRank()

    def fit(self, batches: Iterable[Activations]) -> Self:
        rows = Rows(batches, (), correct=True)
        # The last stage and the penultimate may be one tensor; their covariance has no inverse.
        found = distinct(peek(batches), choose_layers(batches, self.layers))
        self.found_layers = rows.layers = found
        self.density.fit_classes(rows, rows.classes)
        return self

    def adjust(self, held_out: Iterable[Activations]) -> Self:
        if self.held_out:
            rows = [known(batch) for batch in held_out]
            predicted = torch.cat([part.logits.argmax(1) for part in rows])
            surprise = torch.cat([self.surprise(part) for part in rows])
            groups = [surprise[predicted == c] for c in range(rows[0].logits.shape[1])]
            counts = torch.tensor([len(group) for group in groups])
            advice = "hold out more known images, or take calibration='none'"
            need_rows(counts, LEAST, self, advice)
            self.ranks.fit(groups)
        return self

    def surprise(self, rows: Activations) -> Tensor:
        """Surprise `[M]` under the model of the predicted class."""
        return self.density(rows.stacked(self.layers_read), rows.logits.argmax(1))

    def score(self, rows: Activations) -> Tensor:
        surprise = self.surprise(rows)
        if not self.held_out:
            return surprise
        table = self.ranks(surprise[:, None].expand(-1, rows.logits.shape[1]))
        return table.gather(1, rows.logits.argmax(1, keepdim=True)).squeeze(1)
