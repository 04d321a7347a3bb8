"""ViM: the features outside the training data's principal directions, against the logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, head_of, known, peek
from openset.moments import Moments
from openset.spec import Count


class ViM(Detector):
    """Scores an image by its features' length off the principal directions less log Σ exp(logit).

    Wang et al., 2022, https://arxiv.org/abs/2203.10807. With the origin moved to where the head
    gives zero, u = −W⁺b, the features' principal directions are taken; the length of what is left
    over, scaled to the size of the largest logit, acts as the logit of one more class:
    α‖x^⊥‖ − log Σ exp(logit). Two passes, constant memory.

    Args:
        dimension: Number of principal directions; None as in the paper: 1,000 of at least 2,048
            features, 512 of at least 768, otherwise half.

    Example:
        >>> x = torch.randn(50, 4)
        >>> weight, bias = torch.randn(3, 4), torch.zeros(3)
        >>> logits = x @ weight.T
        >>> batch = Activations(logits, {"penultimate": x}, logits.argmax(1), head=(weight, bias))
        >>> ViM().fit([batch]).residual.shape
        torch.Size([4, 2])
    """

    name = "vim"
    layers = ("penultimate",)
    origin: Tensor
    residual: Tensor
    alpha: Tensor

    def __init__(self, dimension: Count | None = None):
        super().__init__()
        self.dimension = dimension

    def fit(self, batches: Iterable[Activations]) -> Self:
        rows = Rows(batches, self.layers)
        weight, bias = (x.double() for x in head_of(peek(batches), self))
        origin = -torch.linalg.pinv(weight) @ bias
        moments = Moments.of(((x, labels.clamp_max(0)) for x, labels in rows), 1)
        shift = moments.mean[0] - origin
        axes = torch.linalg.eigh(moments.covariance()[0] + torch.outer(shift, shift)).eigenvectors
        left = len(axes) - principal_dimension(len(axes), self.dimension)
        self.keep(origin=origin.float(), residual=axes[:, :left].float())
        self.keep(alpha=self._scale(batches).float())
        return self

    def _scale(self, batches: Iterable[Activations]) -> Tensor:
        """Mean largest logit over mean residual length, of the training images."""
        largest = length = torch.zeros((), dtype=torch.float64)
        for batch in batches:
            rows = known(batch)
            largest = largest + rows.logits.double().max(1).values.sum()
            length = length + self.left_over(rows).double().sum()
        if length <= 0:
            raise ValueError(
                f"no training feature leaves the {len(self.origin) - self.residual.shape[1]} "
                "principal directions; give ViM a smaller dimension"
            )
        return largest / length

    def left_over(self, rows: Activations) -> Tensor:
        """The length `[M]` of the features outside the principal directions."""
        x = rows.stacked(self.layers)
        return ((x - self.origin.to(x.dtype)) @ self.residual.to(x.dtype)).norm(dim=1)

    def score(self, rows: Activations) -> Tensor:
        return self.alpha * self.left_over(rows) - rows.logits.logsumexp(1)


def principal_dimension(features: int, dimension: int | None) -> int:
    """The number of principal directions, by the paper's rule if none is given."""
    if dimension is None:
        return 1000 if features >= 2048 else 512 if features >= 768 else features // 2
    if not 0 <= dimension < features:
        raise ValueError(
            f"dimension must lie in 0…{features - 1} for {features} features; got {dimension}"
        )
    return dimension
