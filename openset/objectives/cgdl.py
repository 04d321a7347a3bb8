"""A ladder autoencoder whose top latent is a Gaussian of the image's class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.heads.gaussian_ladder import Gaussian, GaussianLadder, gaussian_ladder
from openset.objectives.base import Objective
from openset.spec import Range


class CGDL(Objective):
    """Trains a classifier whose latent is a unit Gaussian for each class, and draws images from it.

    A ladder autoencoder stands on the network's stages. Its top latent z classifies, and is pulled
    to N(m_y, I), whose mean m_y is learned; each lower latent to what the one above expects:

        |x − x̂|² + β [KL(q_top ‖ N(m_y, I)) + Σ_l KL(q_l ‖ p_l)] + λ CE(z, y)

    |x − x̂|² is in units of the network's normalisation, summed over the image, KL in nats, summed
    over dimensions; all is divided by λ, which only scales the learning rate. β rises from 0 to 1.
    The detector `cgdl` asks how well an image fits its class and is drawn again. This is CPGM-VAE
    of the VMDLS paper.

    The published code has a mean over pixels in place of the sum, beside which the autoencoder
    learns next to nothing, and a tanh that cannot draw strokes as bright as they are; its β is 1
    after 50 batches, and its latents read whole maps, by 291 million weights.

    Paper: Sun et al., *Conditional Gaussian Distribution Learning for Open Set Recognition*, 2020,
    https://arxiv.org/abs/2003.08823.

    Args:
        network: A network of openset in stages, from images `[N, C, H, W]` in 0…1 to logits
            `[N, K]`, trained or not; a copy of it gets the ladder.
        weight: λ, the weight of the cross-entropy.
        beta_epochs: Epochs in which β rises; 50 in the paper.
        dim: Dimensions of the top latent.
        side: Dimensions of each other latent.
        width: Maps of the layer before the decoder's last.

    Example:
        >>> from openset.networks import cnn
        >>> objective = CGDL(cnn(classes=3, channels=1, widths=(4, 8)), width=4)
        >>> objective.logits(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """

    name = "cgdl"
    network: GaussianLadder  # pyright: ignore[reportIncompatibleVariableOverride]
    beta: Tensor

    def __init__(
        self,
        network: nn.Module,
        weight: Annotated[float, Range(above=0)] = 100.0,
        beta_epochs: Annotated[int, Range(least=1)] = 5,
        dim: int = 32,
        side: int = 64,
        width: int = 32,
    ):
        super().__init__(gaussian_ladder(network, dim, side, width))
        self.weight, self.beta_epochs = weight, beta_epochs
        self.dim, self.side, self.width = dim, side, width
        self.keep(beta=torch.tensor(1 / beta_epochs))

    def start_epoch(self, epoch: int) -> None:
        self.beta.fill_(min(1.0, (epoch + 1) / self.beta_epochs))

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        network = self.network
        top, seen = network.climb(image)
        z = top.sample()
        lowest, steps = network.descend(z, seen, Gaussian.sample)
        missed = network.missed(image, network.draw(lowest, image.shape[2:])) * image[0].numel()
        own = Gaussian(network.centres[label].to(z), torch.ones_like(z))
        divergence = sum((kl(each.posterior, each.prior) for each in steps), kl(top, own))
        drawn = (missed.squeeze(1) + self.beta * divergence).mean()
        yield "network", F.cross_entropy(network.head(z).float(), label) + drawn / self.weight


def kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q ‖ p) in nats, `[N]`, summed over dimensions."""
    ratio = q.variance / p.variance
    return (ratio - 1 - ratio.log() + (q.mean - p.mean).square() / p.variance).sum(1) / 2
