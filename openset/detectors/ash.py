"""ASH: the energy of an image of whose features only the largest are left."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import head_energy
from openset.detectors.scale import largest, share_below, sharpness
from openset.errors import unknown_name

VARIANTS = ("s", "b", "p")


class ASH(Detector):
    """Scores an image by its energy with all but its largest features set to zero.

    Djurisic et al., 2023, https://arxiv.org/abs/2209.09858. What is left is scaled by
    exp(sum before / sum after) in ASH-S, replaced by one value that keeps the sum in ASH-B, and
    left as it is in ASH-P. Learns nothing. Meant for features that are not negative, as after a
    ReLU.

    Args:
        variant: "s", "b" or "p".
        quantile: The share of an image's units that are set to zero.

    Example:
        >>> x = torch.tensor([[3.0, 1.0, 0.0, 0.0]])
        >>> head = torch.ones(1, 4), torch.zeros(1)
        >>> rows = Activations(torch.zeros(1, 1), {"penultimate": x}, head=head)
        >>> [round(-ASH(v, 0.75).score(rows).item(), 2) for v in ("p", "b", "s")]
        [3.0, 4.0, 11.38]
    """

    name = "ash"
    layers = ("penultimate",)

    def __init__(self, variant: Literal["s", "b", "p"] = "s", quantile: float = 0.65):
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(unknown_name("variant", variant, VARIANTS))
        self.variant, self.quantile = variant, share_below(quantile)

    def score(self, rows: Activations) -> Tensor:
        x = rows.stacked(self.layers)
        values, places = largest(x, self.quantile)
        if self.variant == "b":
            values = (x.sum(1, keepdim=True) / values.shape[1]).expand_as(values)
        pruned = torch.zeros_like(x).scatter(1, places, values)
        if self.variant == "s":
            pruned = pruned * sharpness(x, self.quantile)
        return head_energy(pruned, rows, self)
