"""fDBD: the distance of an image's features to the classifier's decision boundaries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, head_of, mean_of, peek


class FDBD(Detector):
    """Scores an image by how near its features lie to the boundaries with the other classes.

    Liu & Qin, 2024, https://arxiv.org/abs/2312.11536: the distance to the boundary with class c is
    (logit_y − logit_c) / |w_y − w_c|, y being the predicted class; the mean over all other classes
    is divided by the features' distance to the mean of the training features. One pass, constant
    memory, no setting.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> head, labels = (torch.eye(2), torch.zeros(2)), torch.arange(2)
        >>> batch = Activations(x, {"penultimate": x}, labels, head=head)
        >>> FDBD().fit([batch]).score(batch).round(decimals=4).tolist()
        [-1.0, -1.0]
    """

    name = "fdbd"
    layers = ("penultimate",)
    mean: Tensor
    apart: Tensor

    def fit(self, batches: Iterable[Activations]) -> Self:
        self.keep(mean=mean_of(Rows(batches, self.layers)))
        weight = head_of(peek(batches), self)[0].double()
        apart = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist").float()
        # No boundary lies between classes of one weight, the class itself among them.
        self.keep(apart=torch.where(apart > 0, apart, torch.inf))
        return self

    def score(self, rows: Activations) -> Tensor:
        x, logits = rows.stacked(self.layers), rows.logits
        top = logits.max(1, keepdim=True)
        apart = self.apart.to(x.dtype)[top.indices.squeeze(1)]
        distance = ((top.values - logits) / apart).sum(1) / max(1, logits.shape[1] - 1)
        return -distance / (x - self.mean.to(x.dtype)).norm(dim=1).clamp_min(1e-8)
