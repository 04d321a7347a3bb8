"""A latent Gaussian for each class from capsules, and classes as places in it (CVAECapOSR)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.base import Backbone, described, need_stages
from openset.networks.dcgan import Generator
from openset.networks.heads.bottleneck import log_softplus

PART, WHOLE = 8, 16
"""Numbers of a capsule of the last stage, and of a capsule of a class."""

ROUNDS = 3
"""Rounds of the routing."""

PLACE = 10.0
"""Where the target of a class lies in the class's own block; elsewhere it lies at 0."""


class Targets(nn.Module):
    """KL from K blocks of Gaussians to the target of each class, in nats.

    The target of class k is N(10, s²) in each dimension of block k, and N(0, s²) in all others.

    Args:
        variance: s².

    Example:
        >>> Targets(1.0)(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)).tolist()
        [[150.0, 150.0]]
    """

    def __init__(self, variance: float):
        super().__init__()
        self.variance = variance

    def forward(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        """KL `[N, K]` of blocks with means and log standard deviations `[N, K, d]`."""
        ratio = (2 * log_sigma).exp() / self.variance
        width = (ratio - 1 - ratio.log()) / 2
        near = (width + (mean - PLACE).square() / (2 * self.variance)).sum(2)
        far = (width + mean.square() / (2 * self.variance)).sum(2)
        # A product with 0 and 1 and no difference, which would lose what is small.
        return near + far @ (1 - torch.eye(far.shape[1]).to(far))


class Capsules(nn.Module):
    """A backbone whose last stage is read by capsules, one for each class, as a latent Gaussian.

    Logits are −log KL, so that their softmax is KL_k⁻¹ / Σ KL_j⁻¹; a tap reads the KL as the layer
    `"divergence"`. `reconstruct` draws images from the Gaussians, which only training needs.

    Args:
        network: A network in stages, as those of openset are; its head is not used.
        classes: Number of classes K.
        dim: d, latent dimensions of each class.
        variance: s² of the targets.
        width: Maps of the layer before the decoder's last.
    """

    spec: dict[str, Any] | None = None

    def __init__(self, network: Backbone, classes: int, dim: int, variance: float, width: int):
        super().__init__()
        self.network, self.dim = copy.deepcopy(network), dim
        for unused in ("neck", "head"):
            self.network.set_submodule(unused, nn.Identity())
        self.stages = tuple(f"network.{stage}" for stage in network.stages)
        channels = self.network.widths()[-1]
        kinds = -(-channels // PART)
        self.parts = nn.Sequential(
            nn.Conv2d(channels, kinds * PART, 3, padding=1, bias=False),
            nn.BatchNorm2d(kinds * PART),
            nn.ReLU(),
        )
        self.votes = nn.Parameter(0.5 * torch.randn(kinds, classes, PART, WHOLE))
        self.mean = nn.Sequential(nn.Linear(WHOLE, 64), nn.ReLU(), nn.Linear(64, dim))
        self.rho = nn.Linear(WHOLE, dim)
        self.divergence = Targets(variance)
        colours = len(self.normalize.get_buffer("mean"))
        self.decoder = Generator(colours, width, noise=classes * dim + classes)

    @property
    def normalize(self) -> nn.Module:
        """The normalisation inside the backbone."""
        return self.network.normalize

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations `[N, K, d]` of images."""
        parts = self.parts(self.network.maps(image)[-1]).unflatten(1, (-1, PART)).flatten(3)
        votes = torch.einsum("npeh,pkew->nphkw", squash(parts, 2), self.votes)
        whole, _ = route(votes.flatten(1, 2))
        mean, rho = self.mean(whole), self.rho(whole)
        exact = torch.promote_types(mean.dtype, torch.float32)  # Of sums over K · d squares.
        return PLACE * mean.to(exact), log_softplus(rho.to(exact)) / 2

    def reconstruct(self, z: Tensor, classes: Tensor, size: tuple[int, int]) -> Tensor:
        """Images `[N, C, *size]` in 0…1 of latents `[N, K, d]` and their classes `[N]`."""
        told = F.one_hot(classes, z.shape[1]).to(z)
        return self.decoder.draw(torch.cat([z.flatten(1) / PLACE, told], dim=1), size)

    def forward(self, image: Tensor) -> Tensor:
        return -self.divergence(*self.encode(image)).clamp_min(1e-6).log()


def squash(x: Tensor, dim: int) -> Tensor:
    """x brought to a length below 1, with its direction; its gradient at 0 is finite."""
    square = x.square().sum(dim, keepdim=True)
    return x * (square + 1e-6).sqrt() / (1 + square)


def route(votes: Tensor) -> tuple[Tensor, Tensor]:
    """Capsules `[N, K, W]` that votes `[N, I, K, W]` agree on, and their shares `[N, I, K]`."""
    share = torch.zeros_like(votes[..., 0]).softmax(2)
    whole = squash((share[..., None] * votes).sum(1), 2)
    agreement = torch.zeros_like(share)
    for _ in range(ROUNDS - 1):
        agreement = agreement + (votes * whole[:, None]).sum(3)
        share = agreement.softmax(2)
        whole = squash((share[..., None] * votes).sum(1), 2)
    return whole, share


@described
def capsules(network: nn.Module, dim: int = 32, variance: float = 1.0, width: int = 32) -> Capsules:
    """Puts capsules in place of a classifier's head, whose latent tells the class (CVAECapOSR).

    Guo et al., 2021, "Conditional Variational Capsule Network for Open Set Recognition",
    https://arxiv.org/abs/2104.09159. A tap reads the KL to each class's target as the layer
    `"divergence"`. Places of a map share their weights here, so that images may have any size.

    Args:
        network: A network in stages with logits `[N, K]`, trained or not; this holds a copy.
        dim: d, latent dimensions of each class.
        variance: s² of the targets; published are 0.1 for MNIST, 1 for CIFAR-10.
        width: Maps of the layer before the decoder's last.

    Example:
        >>> from openset.networks import cnn
        >>> network = capsules(cnn(classes=3, channels=1, widths=(4, 8)), dim=5, width=4)
        >>> network(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """
    staged = need_stages(network, "capsules")
    if not variance > 0:
        raise ValueError(f"variance is {variance}; it must be above 0")
    head = [m for m in staged.head.modules() if isinstance(m, nn.Linear)]
    return Capsules(staged, head[-1].out_features, dim, variance, width)
