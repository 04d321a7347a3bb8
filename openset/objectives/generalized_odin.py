"""A logit divided in two parts, of which one tells the class and the other what is known."""

from __future__ import annotations

from typing import Any

from torch import nn

from openset.networks.heads.decomposed import Decomposed, Similarity, decomposed
from openset.objectives.cross_entropy import CrossEntropy


class GeneralizedODIN(CrossEntropy):
    """Trains a classifier whose logits are likeness to a class over a shared guess of being known.

    The loss is cross-entropy of h / g; weight decay spares h. `similarity` makes it DeConf-C
    ("cosine"), DeConf-I ("inner") or DeConf-E ("euclidean").

    Paper: Hsu et al., *Generalized ODIN: Detecting Out-of-distribution Image without Learning from
    Out-of-distribution Data*, 2020, https://arxiv.org/abs/2002.11297.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]`, trained or not; a copy of it
            gets the head.
        similarity: h, as above.

    Example:
        >>> import torch
        >>> objective = GeneralizedODIN(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
        >>> objective.logits(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """

    network: Decomposed  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, network: nn.Module, similarity: Similarity = "cosine"):
        super().__init__(decomposed(network, similarity))
        self.similarity = similarity

    def options(self) -> dict[str, dict[str, Any]]:
        return {"network.similarity": {"weight_decay": 0.0}}
