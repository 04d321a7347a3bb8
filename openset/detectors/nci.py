"""NCI: how near an image's features lie to the weight of its class, in the manner of collapse."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, head_of, mean_of
from openset.spec import Amount


class NCI(Detector):
    """Scores an image by the angle of its features to the predicted class's weight, negated.

    Liu & Qin, 2025, https://arxiv.org/abs/2311.01479. Under neural collapse, features less their
    mean point along the weight w of their class: −w·(z − μ) / |z − μ| − α|z|₁, the last term for
    unknown images whose features lie near the origin. One pass, constant memory.

    Args:
        alpha: α; the paper tunes it on unknown images, which is not done here.

    Example:
        >>> import torch
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> head, labels = (torch.eye(2), torch.zeros(2)), torch.arange(2)
        >>> batch = Activations(x, {"penultimate": x}, labels, head=head)
        >>> [round(score, 4) for score in NCI().fit([batch]).score(batch).tolist()]
        [-0.7071, -0.7071]
    """

    layers = ("penultimate",)
    mean: Tensor

    def __init__(self, alpha: Amount = 0.0):
        super().__init__()
        if alpha < 0:
            raise ValueError(f"alpha is at least 0; got {alpha}")
        self.alpha = alpha

    def fit(self, batches: Iterable[Activations]) -> Self:
        self.keep(mean=mean_of(Rows(batches, self.layers)))
        return self

    def score(self, rows: Activations) -> Tensor:
        x = rows.stacked(self.layers)
        weight, _ = head_of(rows, self)
        centred = x - self.mean.to(x.dtype)
        along = (centred * weight.to(x.dtype)[rows.logits.argmax(1)]).sum(1)
        return -along / centred.norm(dim=1).clamp_min(1e-8) - self.alpha * x.abs().sum(1)
