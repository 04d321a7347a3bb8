"""SCALE: the energy of an image whose features are scaled by how few of them carry their sum."""

from __future__ import annotations

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import head_energy


class SCALE(Detector):
    """Scores an image by its energy with features scaled by exp(sum / sum of the largest).

    Xu et al., 2024, https://arxiv.org/abs/2310.00227. Where a few units carry nearly all of the
    sum, as on known images, the scale is small; the features themselves are not pruned, other than
    in `ASH`. Learns nothing. Meant for features that are not negative, as after a ReLU.

    Args:
        quantile: The share of an image's units that are not among the largest.

    Example:
        >>> x = torch.tensor([[4.0, 0.0, 0.0, 0.0]])
        >>> head = torch.ones(1, 4), torch.zeros(1)
        >>> rows = Activations(torch.zeros(1, 1), {"penultimate": x}, head=head)
        >>> round(SCALE(quantile=0.75).score(rows).item() / -4, 4)  # exp(4 / 4)
        2.7183
    """

    layers = ("penultimate",)

    def __init__(self, quantile: float = 0.65):
        super().__init__()
        self.quantile = share_below(quantile)

    def score(self, rows: Activations) -> Tensor:
        x = rows.stacked(self.layers)
        return head_energy(x * sharpness(x, self.quantile), rows, self)


def share_below(value: float) -> float:
    """The value, if it is a share that leaves something above it."""
    if not 0 <= value < 1:
        raise ValueError(f"quantile is a share of at least 0 and below 1; got {value}")
    return value


def largest(x: Tensor, quantile: float) -> tuple[Tensor, Tensor]:
    """The values and places `[M, k]` of the units of each row above a share of them all."""
    count = x.shape[1]
    found = x.topk(max(1, count - round(count * quantile)), dim=1)
    return found.values, found.indices


def sharpness(x: Tensor, quantile: float) -> Tensor:
    """exp(sum of all units / sum of the largest), `[M, D]` → `[M, 1]`."""
    top = largest(x, quantile)[0].sum(1, keepdim=True)
    # Of a row of zeros nothing is left to scale.
    return (x.sum(1, keepdim=True) / torch.where(top == 0, torch.ones_like(top), top)).exp()
