"""A Gaussian code per image, held close to a learned prior: VIB, VIBY."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.moments import Moments
from openset.networks.heads.bottleneck import Bottleneck, bottleneck
from openset.networks.watch import evaluating
from openset.objectives.base import Objective


class VIB(Objective):
    """Trains a classifier on noisy codes, and a prior that learns where the codes lie.

    The loss is the cross-entropy of a sampled code plus β times the KL of the code to one learned
    diagonal-Gaussian prior. Both are in nats. The prior learns by gradient, as all the rest, and
    ends where `fit_priors` puts it.

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
        sigma: Standard deviation of the codes before training. Where it is that of the prior from
            the start (0.69 and more), an unknown image, whose code lies in the middle between the
            classes, is nearer to the one prior than any known image: the score is then upside
            down. The authors' code starts at 0.007, where SGD at a high rate is not stable.

    Example:
        >>> objective = VIB(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), dim=8)
        >>> objective.logits(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """

    network: Bottleneck  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        network: nn.Module,
        beta: float = 0.005,
        dim: int = 64,
        samples: int = 0,
        sigma: float = 0.1,
    ):
        super().__init__(bottleneck(network, 1, dim, samples, sigma=sigma))
        self.beta, self.dim, self.samples, self.sigma = beta, dim, samples, sigma

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        logits, divergence = sampled(self.network, image)
        yield "network", F.cross_entropy(logits, label) + self.beta * divergence.mean()

    def finish(self, batches: Iterable[tuple[Tensor, Tensor]]) -> nn.Module:
        return fit_priors(self.network, batches)


class VIBY(Objective):
    """Trains as `VIB` does, but holds each code close to a learned prior of its own class.

    The KL is that to the prior of the true class, in nats. The priors learn by gradient, as all the
    rest, and end where `fit_priors` puts them.

    Paper: Sreeramdass & Sarawagi, *Out-of-Distribution Image Detection with Deep Neural Networks*,
    §3, after Alemi et al., 2017, https://arxiv.org/abs/1612.00410.

    Args:
        network: As in `VIB`.
        beta: β, the weight of the KL.
        dim: z, the size of the code.
        samples: As in `VIB`.
        sigma: As in `VIB`.

    Example:
        >>> objective = VIBY(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), dim=8)
        >>> objective.network.divergence
        Divergence(priors=3, dim=8)
    """

    network: Bottleneck  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        network: nn.Module,
        beta: float = 0.01,
        dim: int = 64,
        samples: int = 0,
        sigma: float = 0.3,
    ):
        super().__init__(bottleneck(network, None, dim, samples, sigma=sigma))
        self.beta, self.dim, self.samples, self.sigma = beta, dim, samples, sigma

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        logits, divergence = sampled(self.network, image)
        own = divergence.gather(1, label[:, None])
        yield "network", F.cross_entropy(logits, label) + self.beta * own.mean()

    def finish(self, batches: Iterable[tuple[Tensor, Tensor]]) -> nn.Module:
        return fit_priors(self.network, batches)


def sampled(network: Bottleneck, image: Tensor) -> tuple[Tensor, Tensor]:
    """Logits `[N, K]` of one random draw of each code, and its KL to each prior `[N, C]`."""
    mean, log_sigma = network.encode(image)
    draw = mean + log_sigma.exp() * torch.randn_like(mean)
    return network.head(draw), network.divergence(mean, log_sigma)


@torch.no_grad()
def fit_priors(network: Bottleneck, batches: Iterable[tuple[Tensor, Tensor]]) -> Bottleneck:
    """Puts the priors where the mean KL of the training images is least, in one pass.

    For codes N(μ, σ²) that is m = E μ and s² = E σ² + Var μ, over all images for one prior, over
    those of a class for a prior per class; a class without images keeps its prior. By gradient
    alone, scaled by a small β, the priors of a short training have hardly left N(0, I), to which
    unknown images lie closer than known ones.

    Args:
        network: With trained weights; its priors change in place.
        batches: Images `[N, C, H, W]` and labels `[N]`, without augmentation.
    """
    prior = network.divergence
    priors, dim = prior.mean.shape
    means, variances = (Moments(priors, dim, "diag").to(prior.mean.device) for _ in range(2))
    with evaluating(network):
        for image, label in batches:
            mean, log_sigma = network.encode(image)
            own = label if len(prior.mean) > 1 else label.clamp(max=0)
            means.update(mean, own)
            variances.update((2 * log_sigma).exp(), own)
    seen = (means.count > 0)[:, None]
    spread = torch.where(seen, means.covariance() + variances.mean, 1)
    prior.mean.copy_(torch.where(seen, means.mean.to(prior.mean), prior.mean))
    prior.log_sigma.copy_(torch.where(seen, (spread.log() / 2).to(prior.mean), prior.log_sigma))
    return network
