"""DICE: the energy of an image by those weights alone that matter to known images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, head_of, mean_of, peek, quantiles
from openset.detectors.scale import share_below


class DICE(Detector):
    """Scores an image by its energy with most weights of the network's last layer left out.

    Sun & Li, 2022, https://arxiv.org/abs/2111.09805: a weight's contribution is itself times the
    unit's mean activation on the training images; the largest stay, the others only add noise. One
    pass, constant memory.

    Args:
        sparsity: The share of weights that are left out.

    Example:
        >>> x = torch.tensor([[1.0, 0.1]])
        >>> head, labels = (torch.ones(1, 2), torch.zeros(1)), torch.zeros(1).long()
        >>> batch = Activations(x.sum(1)[:, None], {"penultimate": x}, labels, head=head)
        >>> DICE(0.5).fit([batch]).weight.tolist()
        [[1.0, 0.0]]
    """

    name = "dice"
    layers = ("penultimate",)
    weight: Tensor

    def __init__(self, sparsity: float = 0.7):
        super().__init__()
        self.sparsity = share_below(sparsity)

    def fit(self, batches: Iterable[Activations]) -> Self:
        weight = head_of(peek(batches), self)[0].float()
        contribution = weight * mean_of(Rows(batches, self.layers))
        kept = contribution > quantiles(contribution, [self.sparsity])
        self.keep(weight=torch.where(kept, weight, 0.0))
        return self

    def score(self, rows: Activations) -> Tensor:
        x = rows.stacked(self.layers)
        _, bias = head_of(rows, self)
        return -(x @ self.weight.to(x.dtype).T + bias.to(x.dtype)).logsumexp(1)
