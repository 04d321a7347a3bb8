"""RotPred: a classifier that must also tell by how many right angles an image was turned."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.layers import find_head
from openset.networks.watch import listening
from openset.objectives.base import Objective

TURNS = 4


class RotPred(Objective):
    """Trains a classifier whose features also tell how far an image was turned, and of what it is.

    Each image is shown four times, turned by 0, 90, 180 and 270 degrees; a second linear head on
    the last features names the turn, and the plain image's class is learned as usual. The second
    head is dropped at the end, so the network that is kept is the one given, and every detector
    reads it; the paper's own score, which looks at an image four times, is not here. An epoch costs
    about four times one of cross-entropy.

    Paper: Hendrycks et al., *Using Self-Supervised Learning Can Improve Model Robustness and
    Uncertainty*, 2019, https://arxiv.org/abs/1906.12340.

    Args:
        network: From square images `[N, C, H, H]` in 0…1 to logits `[N, K]`, with a linear head.
        weight: Weight of the turn's loss.

    Example:
        >>> objective = RotPred(nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Linear(8, 3)))
        >>> [name for name, loss in objective.step(torch.rand(5, 1, 2, 2), torch.arange(5) % 3)]
        ['network', 'turn']
    """

    name = "rotation"

    def __init__(self, network: nn.Module, weight: float = 1.0):
        super().__init__(network)
        self.weight, self.path = weight, find_head(network)
        head = network.get_submodule(self.path)
        if not isinstance(head, nn.Linear):
            raise ValueError(
                f"the head of {type(network).__name__} is no nn.Linear, whose features a second "
                "head could read; take another network, or the objective cross-entropy"
            )
        self.turn = nn.Linear(head.in_features, TURNS)

    def learners(self) -> dict[str, nn.Module]:
        return {"network": self.network, "turn": self.turn}

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        if image.shape[2] != image.shape[3]:
            raise ValueError(f"images are {list(image.shape[2:])}; only square ones can be turned")
        features: list[Tensor] = []
        head = self.network.get_submodule(self.path)
        with listening([(head, lambda x, _: features.append(x))]):
            logits = self.logits(torch.cat([image.rot90(k, (2, 3)) for k in range(TURNS)]))
        turned = torch.arange(TURNS, device=label.device).repeat_interleave(len(image))
        x, weight, bias = features[-1], self.turn.weight.detach(), self.turn.bias.detach()
        loss = self.weight * F.cross_entropy(F.linear(x, weight, bias), turned)
        yield "network", F.cross_entropy(logits[: len(image)], label) + loss
        yield "turn", F.cross_entropy(self.turn(x.detach()), turned)
