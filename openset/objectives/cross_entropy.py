"""The plain classifier: softmax cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from openset.activations import VOID
from openset.objectives.base import Objective


class CrossEntropy(Objective):
    """Trains a plain classifier, of whole images or of pixels; most detectors start from one.

    The loss is the mean over what is labelled; `VOID` labels are left out.

    Paper: Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*, 2016
    (label smoothing), https://arxiv.org/abs/1512.00567.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]` or `[N, K, H, W]`.
        label_smoothing: The share of each target, in 0…1, that is spread over all classes.

    Example:
        >>> import torch
        >>> objective = CrossEntropy(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
        >>> [name for name, loss in objective.step(torch.rand(5, 1, 2, 2), torch.arange(5) % 3)]
        ['network']
    """

    def __init__(self, network: nn.Module, label_smoothing: float = 0.0):
        super().__init__(network)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must lie in 0…1")
        self.label_smoothing = label_smoothing

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield "network", labelled_cross_entropy(self.logits(image), label, self.label_smoothing)


def labelled_cross_entropy(logits: Tensor, label: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over what is not void; 0 where all is, for which torch's is 0 / 0."""
    total = F.cross_entropy(
        logits.float(),
        label,
        ignore_index=VOID,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total / (label != VOID).sum().clamp(min=1)
