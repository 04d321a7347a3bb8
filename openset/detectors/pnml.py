"""pNML: how well a last layer that is fitted to an image could make it any class."""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, head_of
from openset.moments import Moments


class PNML(Detector):
    """Scores an image by its regret: how well the last layer, fitted to it, would fit any label.

    Bibas, Feder & Hassner, 2021, https://arxiv.org/abs/2110.09246. For features z of unit length,
    g = zᵀ(ZᵀZ)⁻¹z over the training features Z, and class probabilities p,
    log Σ p / (p + (1 − p) p^{g / (1 + g)}), divided by log K: high where z lies in directions that
    training images leave empty, or where the network is unsure. p is what the last layer makes of
    the unit features. One pass, constant memory.

    Example:
        >>> x = torch.eye(2)
        >>> head, labels = (torch.eye(2), torch.zeros(2)), torch.arange(2)
        >>> batch = Activations(x, {"penultimate": x}, labels, head=head)
        >>> PNML().fit([batch]).score(batch).shape
        torch.Size([2])
    """

    layers = ("penultimate",)
    inverse: Tensor

    def fit(self, batches: Iterable[Activations]) -> Self:
        rows = Rows(batches, self.layers)
        unit = ((F.normalize(x, dim=1), labels.clamp_max(0)) for x, labels in rows)
        moments = Moments.of(unit, 1)
        mean = moments.mean[0]
        gram = moments.scatter[0] + moments.count[0] * torch.outer(mean, mean)
        self.keep(inverse=torch.linalg.pinv(gram, rtol=1e-6, hermitian=True).float())
        return self

    def score(self, rows: Activations) -> Tensor:
        z = F.normalize(rows.stacked(self.layers), dim=1)
        weight, bias = head_of(rows, self)
        log_p = (z @ weight.to(z.dtype).T + bias.to(z.dtype)).log_softmax(1)
        g = ((z @ self.inverse.to(z.dtype)) * z).sum(1, keepdim=True).clamp_min(0)
        # p / (p + (1 − p) p^a) is a logistic function of (1 − a) log p − log(1 − p).
        odds = log_p / (1 + g) - torch.log1p(-log_p.exp())
        return odds.sigmoid().sum(1).log() / log(max(2, log_p.shape[1]))
