"""Mahalanobis++: the Mahalanobis distance of features that are brought to unit length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.detectors.mahalanobis import Mahalanobis
from openset.detectors.rows import Rows, choose_layers, mean_of, peek
from openset.moments import Moments
from openset.spec import Amount


class MahalanobisPlusPlus(Mahalanobis):
    """Scores an image by the Mahalanobis distance of its features, brought to unit length before.

    Müller & Hein, 2025, https://arxiv.org/abs/2505.18032. The features' length differs from class
    to class more than one Gaussian allows; the direction does not.

    Args:
        layers: The layers to read, side by side; None for all stages, penultimate and logits.
        epsilon: Length of the input step that lowers the score, in pixel units; 0 for none.
        shrinkage: Share of the identity mixed into the correlation matrix, 0…1.
        centred: Take the mean of all training features away before the length is made one, which
            costs a second pass.

    Example:
        >>> import torch
        >>> x = torch.randn(60, 4) + torch.arange(3).repeat(20)[:, None] * 5
        >>> batch = Activations(torch.zeros(60, 3), {"penultimate": x}, torch.arange(3).repeat(20))
        >>> MahalanobisPlusPlus().fit([batch]).score(batch).shape
        torch.Size([60])
    """

    middle: Tensor

    def __init__(
        self,
        layers: Sequence[str] | None = ("penultimate",),
        epsilon: float = 0.0,
        shrinkage: Amount = 1e-6,
        centred: bool = False,
    ):
        super().__init__(layers, epsilon, shrinkage)
        self.centred = centred

    def fit(self, batches: Iterable[Activations]) -> Self:
        self.found_layers = choose_layers(batches, self.layers)
        rows = Rows(batches, self.found_layers)
        self.keep(middle=mean_of(rows) if self.centred else peek(batches).logits.new_zeros(()))
        unit = ((self.unit(x), labels) for x, labels in rows)
        self.learn(Moments.of(unit, rows.classes, "tied"))
        return self

    def unit(self, x: Tensor) -> Tensor:
        """The direction of features `[M, D]`, from the middle."""
        return F.normalize(x - self.middle.to(x), dim=1)

    def read(self, rows: Activations) -> Tensor:
        return self.unit(super().read(rows))
