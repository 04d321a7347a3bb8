"""A network that may ask for hints, at a price, where it is unsure."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.heads.confident import Confident, confident
from openset.objectives.base import Objective


class LearnedConfidence(Objective):
    """Trains a classifier that says how sure it is, and is given the answer where it is not.

    The probabilities p are mixed with the true label, p' = c p + (1 − c) y, for a random half of
    the images; for the rest p' = p. The loss is −log p'_y + λ · mean(−log c), the second term over
    all images. After each step λ is divided by 1.01 where the hints cost less than the budget, or
    else by 0.99, so that −log c settles at the budget.

    Paper: DeVries & Taylor, *Learning Confidence for Out-of-Distribution Detection in Neural
    Networks*, 2018, https://arxiv.org/abs/1802.04865.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]`, trained or not; a copy of it
            gets the second output.
        budget: The mean price −log c to settle at, in nats.
        weight: λ at the start.

    Example:
        >>> objective = LearnedConfidence(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
        >>> objective.logits(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """

    network: Confident  # pyright: ignore[reportIncompatibleVariableOverride]
    price: Tensor
    cost: Tensor

    def __init__(self, network: nn.Module, budget: float = 0.3, weight: float = 0.1):
        super().__init__(confident(network))
        if not budget > 0 or not weight > 0:
            raise ValueError(f"budget and weight must be above 0; got {budget} and {weight}")
        self.budget, self.weight = budget, weight
        self.register_buffer("price", torch.tensor(float(weight)))
        self.register_buffer("cost", torch.tensor(float(budget)))

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        logits, confidence = self.network.heads(image)
        hinted = torch.rand(len(label), device=label.device) < 0.5
        cost = F.softplus(-confidence.float()).mean()  # −log σ, exact where the sigmoid is 0.
        loss = hinted_loss(logits.float(), confidence.float(), label, hinted)
        yield "network", loss.mean() + self.price * cost
        self.price *= torch.where(cost.detach() < self.budget, 1 / 1.01, 1 / 0.99)
        self.cost.copy_(cost.detach())

    def figures(self) -> dict[str, float]:
        return {"hint_price": float(self.price), "hint_cost": float(self.cost)}


def hinted_loss(logits: Tensor, confidence: Tensor, label: Tensor, hinted: Tensor) -> Tensor:
    """−log p'_y of each image `[N]`, with p'_y = c p_y + 1 − c where it is hinted, else p_y.

    Args:
        logits: `[N, K]`.
        confidence: Logits `[N]` of c.
        label: Class `[N]`.
        hinted: Which images get hints, `[N]`.
    """
    log_p = logits.log_softmax(1).gather(1, label[:, None]).squeeze(1)
    mixed = torch.logaddexp(F.logsigmoid(confidence) + log_p, F.logsigmoid(-confidence))
    return -torch.where(hinted, mixed, log_p)
