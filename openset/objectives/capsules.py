"""Capsules whose latent Gaussians are pulled to a place for each class."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.heads.capsules import PLACE, Capsules, capsules
from openset.objectives.base import Objective


class CVAECapOSR(Objective):
    """Trains a classifier by the place of each class in a latent space of capsules.

    The loss is KL(q ‖ target of the class) / K + β · BCE of an image that a decoder draws from the
    latent and the class, all divided by what one dimension at the origin adds, which only scales
    the learning rate. Targets are fixed: the published term that would move them never acts, as its
    margin is 10 and targets lie 12,800 nats and more apart. The decoder has no side branches.

    `msp` is the published score, as the logits are −log KL; `viby-2` scores the least KL, which
    counts how far an image is from all targets and not only from which it is farther.

    Paper: Guo et al., *Conditional Variational Capsule Network for Open Set Recognition*, 2021,
    https://arxiv.org/abs/2104.09159.

    Args:
        network: A network of openset in stages, from images `[N, C, H, W]` in 0…1 to logits
            `[N, K]`, trained or not; its head is not used.
        weight: β, the weight of the reconstruction.
        dim: Latent dimensions of each class; 128 in the paper.
        variance: s² of the targets; published are 0.1 for MNIST, 1 for CIFAR-10.
        width: Maps of the layer before the decoder's last.

    Example:
        >>> from openset.networks import cnn
        >>> objective = CVAECapOSR(cnn(classes=3, channels=1, widths=(4, 8)), width=4)
        >>> objective.logits(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """

    name = "cvaecaposr"
    network: Capsules  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        network: nn.Module,
        weight: float = 0.01,
        dim: int = 32,
        variance: float = 1.0,
        width: int = 32,
    ):
        super().__init__(capsules(network, dim, variance, width))
        self.weight, self.dim, self.variance, self.width = weight, dim, variance, width

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        mean, log_sigma = self.network.encode(image)
        divergence = self.network.divergence(mean, log_sigma)
        own = divergence.gather(1, label[:, None]).mean()
        z = mean + log_sigma.exp() * torch.randn_like(mean)
        height, width = image.shape[2:]
        again = self.network.reconstruct(z, label, (height, width)).float()
        with torch.autocast(image.device.type, enabled=False):
            drawn = F.binary_cross_entropy(again.clamp(0, 1), image.float())
        far = PLACE**2 / (2 * self.variance)
        yield "network", (own + divergence.shape[1] * self.weight * drawn) / far
