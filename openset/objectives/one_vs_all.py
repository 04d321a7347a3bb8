"""A choice between the classes, and an answer for each: Ensemble OVA and OVNNI."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from openset.activations import VOID
from openset.networks.heads.one_vs_all import SeparateTrunks, SharedTrunk, Trunk, one_vs_all
from openset.objectives.base import Objective
from openset.objectives.binary import binary_cross_entropy


class OneVsAll(Objective):
    """Trains a classifier and, for each class, a yes-or-no answer that sees all others as a no.

    The loss is cross-entropy of the choice plus, for each class c, that of [y = c] under σ(a_c);
    both are means over what is labelled. The detectors are `ova` and `ovnni`. The networks of
    `trunk="separate"` share nothing; on a GPU all that answer are trained in one batched program.

    Paper: Franchi et al., *One Versus all for deep Neural Network Incertitude (OVNNI)
    quantification*, 2020, https://arxiv.org/abs/2006.00954.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]` or `[N, K, H, W]`, trained or
            not; a copy of it gets the answers.
        trunk: "shared" for a head beside the classifier's, or "separate" for a network a class.

    Example:
        >>> import torch
        >>> objective = OneVsAll(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
        >>> objective.logits(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """

    network: SharedTrunk | SeparateTrunks  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, network: nn.Module, trunk: Trunk = "shared"):
        super().__init__(one_vs_all(network, trunk))
        self.trunk: Trunk = trunk

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        choice, answers = self.network.heads(image)
        labelled = label != VOID
        choice, answers = (x.movedim(1, -1)[labelled] for x in (choice, answers))
        if not len(answers):  # The means would be 0 / 0.
            yield "network", choice.sum() + answers.sum()
            return
        loss = F.cross_entropy(choice, label[labelled])
        yield "network", loss + binary_cross_entropy(answers, label[labelled], 1.0)
