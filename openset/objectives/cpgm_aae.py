"""A classifier of a code that an adversary holds to a Gaussian of the image's class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.autoencoder import dense
from openset.networks.heads.drawn_code import DrawnCode, drawn_code
from openset.objectives.base import Objective
from openset.objectives.gan_outliers import ADAM, doubt
from openset.objectives.synthetic_outliers import frozen
from openset.spec import Range

FAR = 6.0
"""Distance of each class's mean from the origin; √2 times as far apart, where they fit in."""


class CPGMAAE(Objective):
    """Trains a classifier by a code that looks drawn from its class's Gaussian, and draws images.

    As `CGDL`, but an adversary stands in place of the divergence: D learns to tell codes F(x) from
    draws of N(m_y, I), told the class y, and F to deceive it:

        CE(F(x), y) + |x − x̂|² / λ + α · BCE(D(F(x), y), real)

    |x − x̂|² is in units of the network's normalisation, summed over the image. There is one code
    and no ladder; the detector is `cgdl`.

    No code is published. Ours are the adversary (two layers of 512 units, Adam at 3e-3, that sees
    F(x) − m_y beside the class), the penalty γ/2 |∇D|² on draws, without which the two chase each
    other, α, λ, and the means m: fixed, at right angles and 6 from the origin, as a mean that
    learns has nothing that would hold it; the classifier starts along them. Nothing but the
    reconstruction keeps a class's codes apart, so that with a large λ they fall together. In few
    dimensions codes come to look drawn from their Gaussians; 32 they do not fill, as images vary in
    fewer ways, and `cgdl` fits its own.

    The penalty: Mescheder et al., *Which Training Methods for GANs do actually Converge?*, 2018,
    https://arxiv.org/abs/1801.04406.

    Paper: Sun et al., *Open Set Recognition with Conditional Probabilistic Generative Models*,
    2020, https://arxiv.org/abs/2008.05129.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]`, trained or not; a copy of it
            gets the code and the decoder.
        weight: λ, by which the reconstruction is divided; as that is a sum over the image, large
            images in a short training may ask for more.
        adversarial: α, the weight of deceiving.
        penalty: γ, the weight of the adversary's slope.
        dim: Dimensions of the code.
        width: Maps of the layer before the decoder's last.

    Example:
        >>> objective = CPGMAAE(nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten(), nn.Linear(3, 3)))
        >>> [who for who, _ in objective.step(torch.rand(5, 1, 4, 4), torch.arange(5) % 3)]
        ['discriminator', 'network']
    """

    name = "cpgm-aae"
    network: DrawnCode  # pyright: ignore[reportIncompatibleVariableOverride]
    centres: Tensor

    def __init__(
        self,
        network: nn.Module,
        weight: Annotated[float, Range(above=0)] = 100.0,
        adversarial: Annotated[float, Range(least=0)] = 1.0,
        penalty: Annotated[float, Range(least=0)] = 10.0,
        dim: int = 32,
        width: int = 32,
    ):
        super().__init__(drawn_code(network, dim, width))
        self.weight, self.adversarial, self.penalty = weight, adversarial, penalty
        self.dim, self.width = dim, width
        classes = self.network.classes
        self.discriminator = nn.Sequential(*dense(dim + classes, 512, 512, 1))
        self.keep(centres=means(classes, dim))
        with torch.no_grad():
            # Otherwise the classifier would lead the codes elsewhere than the adversary.
            self.network.head.weight.copy_(self.centres / FAR)

    def learners(self) -> dict[str, nn.Module]:
        return {"network": self.network, "discriminator": self.discriminator}

    def options(self) -> dict[str, dict[str, Any]]:
        return {"discriminator": {**ADAM, "lr": 3e-3}}

    def real(self, z: Tensor, label: Tensor) -> Tensor:
        """The adversary's logit `[N]` that codes `[N, d]` are draws of their classes' Gaussians."""
        # Half precision would lose a code's last digits, and the penalty its second derivatives.
        with torch.autocast(z.device.type, enabled=False):
            told = F.one_hot(label, len(self.centres)).to(self.centres)
            away = z.to(self.centres) - self.centres[label]
            return self.discriminator(torch.cat([away, told], dim=1)).squeeze(1)

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        z = self.network.encode(image)
        yield "discriminator", self.telling(z.detach(), label)

        again = self.network.draw(z, image.shape[2:])
        missed = self.network.missed(image, again).mean() * image[0].numel()
        loss = F.cross_entropy(self.network.head(z).float(), label) + missed / self.weight
        with frozen(self.discriminator):
            yield "network", loss + self.adversarial * doubt(self.real(z, label), 1)

    def telling(self, z: Tensor, label: Tensor) -> Tensor:
        """The adversary's loss on codes `[N, d]` and as many draws, with the penalty."""
        drawn = self.centres[label]
        drawn = (drawn + torch.randn_like(drawn)).requires_grad_()
        real = self.real(drawn, label)
        [slope] = torch.autograd.grad(real.sum(), drawn, create_graph=True)
        steep = self.penalty / 2 * slope.square().sum(1).mean()
        return doubt(real, 1) + doubt(self.real(z, label), 0) + steep


def means(classes: int, dim: int) -> Tensor:
    """The means of K classes `[K, d]`, all 6 from the origin, at right angles where K ≤ d."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.empty(classes, dim)
    nn.init.orthogonal_(directions, generator=generator)
    return FAR * F.normalize(directions)
