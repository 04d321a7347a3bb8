"""A ladder of latent Gaussians, whose top tells the class and whose foot the image (CGDL)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.autoencoder import dense
from openset.networks.base import Backbone, described, need_stages
from openset.networks.device import dtype_of
from openset.networks.heads.drawn_code import DrawnCode

GRID = 4
"""Side of the grid to which a stage's map is averaged, so that its Gaussian knows where things lie.

The published ladder flattens whole maps, for one size of image, into 291 million weights.
"""

HIDDEN = 256
"""Features between a latent and the Gaussian that it expects one stage lower."""

NARROWEST = 1e-4
"""Least variance; at the published 1e-8 one image can outweigh all others in a divergence."""


class Gaussian(NamedTuple):
    """Diagonal Gaussians: means and variances `[N, d]`."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, mean: Tensor, rho: Tensor) -> Gaussian:
        """With variances softplus(rho); in single precision, as precisions are added up."""
        exact = torch.promote_types(mean.dtype, torch.float32)
        return cls(mean.to(exact), F.softplus(rho.to(exact)) + NARROWEST)

    def times(self, other: Gaussian) -> Gaussian:
        """The Gaussian to which the product of both densities is proportional."""
        own, its = 1 / self.variance, 1 / other.variance
        variance = 1 / (own + its)
        return Gaussian(variance * (own * self.mean + its * other.mean), variance)

    def sample(self) -> Tensor:
        """One draw `[N, d]` of each."""
        return self.mean + self.variance.sqrt() * torch.randn_like(self.mean)


class Rung(nn.Module):
    """The Gaussian of one stage: what its map says, and what the latent above expects.

    Args:
        channels: Channels of the stage's map.
        dim: Dimensions of the stage's latent.
        above: Dimensions of the latent above.
    """

    def __init__(self, channels: int, dim: int, above: int):
        super().__init__()
        flat = GRID**2 * channels
        self.up = nn.Sequential(nn.AdaptiveAvgPool2d(GRID), nn.Flatten(), nn.Linear(flat, 2 * dim))
        self.down = nn.Sequential(*dense(above, HIDDEN, 2 * dim))

    def seen(self, x: Tensor) -> Gaussian:
        """Of maps `[N, C, H, W]`."""
        return Gaussian.of(*self.up(x).chunk(2, dim=1))

    def expected(self, z: Tensor) -> Gaussian:
        """Below latents `[N, above]`."""
        return Gaussian.of(*self.down(z.to(dtype_of(self))).chunk(2, dim=1))


class Step(NamedTuple):
    """One rung on the way down: the posterior, and what the latent above expected."""

    posterior: Gaussian
    prior: Gaussian


class GaussianLadder(DrawnCode):
    """A ladder autoencoder on a network's stages, whose top latent is the classifier's code.

    The top latent is a Gaussian of the network's last features; each stage but the last has one
    of its own, multiplied by the one that the latent above expects. Images are drawn from the
    lowest. `forward` takes means all the way; only training draws samples. `centres` are the means
    m of the classes, to which training pulls the top latent.

    Args:
        network: A network in stages, as those of openset are; this holds a copy.
        dim: Dimensions of the top latent.
        side: Dimensions of each other latent.
        width: Maps of the layer before the decoder's last.
    """

    def __init__(self, network: nn.Module, dim: int = 32, side: int = 64, width: int = 32):
        below = need_stages(network, "latents at every stage").widths()[:-1]
        super().__init__(network, dim, width, drawn=side if below else dim)
        self.rho = nn.Linear(self.features, dim)
        above = (*[side] * len(below), dim)[1:]
        rungs = [Rung(channels, side, size) for channels, size in zip(below, above, strict=True)]
        self.rungs: Any = nn.ModuleList(rungs)
        self.centres = nn.Parameter(torch.randn(self.classes, dim))

    def climb(self, image: Tensor) -> tuple[Gaussian, list[Gaussian]]:
        """The top Gaussian of images, and those that the lower stages' maps say, lowest first."""
        backbone = self.network
        assert isinstance(backbone, Backbone)
        *below, last = backbone.maps(image)
        features = backbone.head(backbone.neck(last))  # What is left of the head.
        top = Gaussian.of(self.mean(features), self.rho(features))
        return top, [rung.seen(x) for rung, x in zip(self.rungs, below, strict=True)]

    def descend(
        self, z: Tensor, seen: Sequence[Gaussian], take: Callable[[Gaussian], Tensor]
    ) -> tuple[Tensor, list[Step]]:
        """The lowest latent below a top latent, and the steps down to it.

        Args:
            z: Top latents `[N, d]`.
            seen: As `climb` gives them.
            take: The latent of a Gaussian: a sample of it, or its mean.
        """
        steps = []
        for rung, gaussian in zip(reversed(self.rungs), reversed(seen), strict=True):
            prior = rung.expected(z)
            steps.append(Step(gaussian.times(prior), prior))
            z = take(steps[-1].posterior)
        return z, steps

    def forward(self, image: Tensor) -> Tensor:
        top, seen = self.climb(image)
        z, _ = self.descend(top.mean, seen, lambda gaussian: gaussian.mean)
        self.missed(image, self.draw(z, image.shape[2:]))  # Not used here: a tap reads it.
        return self.head(top.mean.to(dtype_of(self.head)))


@described
def gaussian_ladder(
    network: nn.Module, dim: int = 32, side: int = 64, width: int = 32
) -> GaussianLadder:
    """Puts a latent Gaussian on each stage of a classifier, from which images are drawn (CGDL).

    Sun et al., 2020, "Conditional Gaussian Distribution Learning for Open Set Recognition",
    https://arxiv.org/abs/2003.08823. A tap reads the top latent's mean as the layer `"mean"` and
    the error of the image drawn again as `"error"`.

    Args:
        network: A network in stages with logits `[N, K]`, trained or not; this holds a copy.
        dim: Dimensions of the top latent.
        side: Dimensions of each other latent.
        width: Maps of the layer before the decoder's last.

    Example:
        >>> from openset.networks import cnn
        >>> network = gaussian_ladder(cnn(classes=3, channels=1, widths=(4, 8)), dim=5, width=4)
        >>> top, seen = network.climb(torch.rand(2, 1, 8, 8))
        >>> top.mean.shape, [gaussian.mean.shape for gaussian in seen]
        (torch.Size([2, 5]), [torch.Size([2, 64])])
    """
    return GaussianLadder(network, dim, side, width)
