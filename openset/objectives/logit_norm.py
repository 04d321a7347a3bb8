"""LogitNorm: cross-entropy of logits that are brought to one length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from openset.objectives.base import Objective


class LogitNorm(Objective):
    """Trains a classifier whose logits' length says nothing, so it is not sure of everything.

    With cross-entropy the logits of all images grow as long as training goes on, those of unknown
    ones too. Here the loss sees logit / (τ |logit|) alone; the network that is kept puts out plain
    logits, which every detector reads as usual. An image's loss is weighted by τ |logit|, held
    constant, without which the published loss needs a learning rate of its own. The gradient is
    clipped at length 1, whatever `clip_norm` says: each step leads at right angles to the logits
    and makes them longer, and on CIFAR-10 they would leave for infinity within two epochs.

    Paper: Wei et al., *Mitigating Neural Network Overconfidence with Logit Normalization*, 2022,
    https://arxiv.org/abs/2205.09310.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]`.
        temperature: τ.

    Example:
        >>> import torch
        >>> objective = LogitNorm(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
        >>> [name for name, loss in objective.step(torch.rand(5, 1, 2, 2), torch.arange(5) % 3)]
        ['network']
    """

    def __init__(self, network: nn.Module, temperature: float = 0.04):
        super().__init__(network)
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        self.temperature = temperature

    def options(self) -> dict[str, dict[str, Any]]:
        return {"network": {"clip_norm": 1.0}}

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        logits = self.logits(image).float()
        length = logits.norm(dim=1, keepdim=True).clamp_min(1e-6)
        loss = F.cross_entropy(logits / length / self.temperature, label, reduction="none")
        # So scaled, its slope in each image's logits is as large as that of cross-entropy.
        yield "network", (self.temperature * length.detach().squeeze(1) * loss).mean()
