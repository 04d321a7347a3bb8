"""Several networks of one architecture, each from weights of its own."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from openset.activations import VOID
from openset.networks.heads.ensemble import Ensemble, ensemble
from openset.objectives.base import Objective


class DeepEnsemble(Objective):
    """Trains several classifiers of images or pixels at once; they agree on what they have learned.

    Each starts from weights of its own and learns by its own cross-entropy; they share the order of
    the images and, on a GPU, one batched program. What is kept gives their mean opinion, and the
    detector `deep-ensemble` reads how far they differ.

    Paper: Lakshminarayanan et al., *Simple and Scalable Predictive Uncertainty Estimation using
    Deep Ensembles*, 2017, https://arxiv.org/abs/1612.01474.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]` or `[N, K, H, W]`, trained or
            not: the first member.
        members: The number of networks, at least 2.

    Example:
        >>> import torch
        >>> objective = DeepEnsemble(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), members=2)
        >>> objective.logits(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """

    network: Ensemble  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, network: nn.Module, members: int = 5):
        super().__init__(ensemble(network, members))
        self.members = members

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        logits = self.network.members.together(image)
        # A sum over the members, so that each learns as it would alone.
        each = label.expand(self.members, *label.shape).flatten(0, 1)
        total = F.cross_entropy(logits.flatten(0, 1), each, ignore_index=VOID, reduction="sum")
        yield "network", total / (label != VOID).sum().clamp(min=1)
