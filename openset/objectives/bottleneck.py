"""A Gaussian code per image, held close to a learned prior: VIB, VIBY."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.heads import Bottleneck, bottleneck
from openset.objectives.base import Objective


class VIB(Objective):
    """Trains a classifier on noisy codes, and a prior that learns where the codes lie.

    The loss is the cross-entropy of a sampled code plus β times the KL of the code to one learned
    diagonal-Gaussian prior. Both are in nats.

    Paper: Alemi et al., *Deep Variational Information Bottleneck*, 2017,
    https://arxiv.org/abs/1612.00410; for detection *Uncertainty in the Variational Information
    Bottleneck*, 2018, https://arxiv.org/abs/1807.00906; β and z by Sreeramdass & Sarawagi, §5.3.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]`, trained or not; a copy of it
            gets the bottleneck.
        beta: β, the weight of the KL.
        dim: z, the size of the code.
        samples: When scoring, 0 takes the class probabilities from the mean of the code, otherwise
            they are averaged over this many seeded draws.

    Example:
        >>> objective = VIB(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), dim=8)
        >>> objective.logits(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """

    network: Bottleneck  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, network: nn.Module, beta: float = 0.005, dim: int = 64, samples: int = 0):
        super().__init__(bottleneck(network, 1, dim, samples))
        self.beta, self.dim, self.samples = beta, dim, samples

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        logits, divergence = sampled(self.network, image)
        yield "network", F.cross_entropy(logits, label) + self.beta * divergence.mean()


class VIBY(Objective):
    """As `VIB` with a learned prior for each class: a code is held close to its own class's prior.

    The KL is that to the prior of the true class, in nats.

    Paper: Sreeramdass & Sarawagi, *Out-of-Distribution Image Detection with Deep Neural Networks*,
    §3, after Alemi et al., 2017, https://arxiv.org/abs/1612.00410.

    Args:
        network: As in `VIB`.
        beta: β, the weight of the KL.
        dim: z, the size of the code.
        samples: As in `VIB`.

    Example:
        >>> objective = VIBY(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), dim=8)
        >>> objective.network.divergence
        Divergence(priors=3, dim=8)
    """

    network: Bottleneck  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, network: nn.Module, beta: float = 0.01, dim: int = 64, samples: int = 0):
        super().__init__(bottleneck(network, None, dim, samples))
        self.beta, self.dim, self.samples = beta, dim, samples

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        logits, divergence = sampled(self.network, image)
        own = divergence.gather(1, label[:, None])
        yield "network", F.cross_entropy(logits, label) + self.beta * own.mean()


def sampled(network: Bottleneck, image: Tensor) -> tuple[Tensor, Tensor]:
    """Logits `[N, K]` of one random draw of each code, and its KL to each prior `[N, C]`."""
    mean, log_sigma = network.encode(image)
    draw = mean + log_sigma.exp() * torch.randn_like(mean)
    return network.head(draw), network.divergence(mean, log_sigma)
