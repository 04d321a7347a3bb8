"""A stochastic bottleneck between the features and the head (VIB, VIBY)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.base import described
from openset.networks.heads.widened import Widened


class Divergence(nn.Module):
    """KL from diagonal Gaussians to learned diagonal-Gaussian priors, in nats.

    KL(N(μ, σ²) ‖ N(m, s²)) = Σ log(s / σ) + (σ² + (μ − m)²) / 2s² − ½, summed over dimensions.

    Args:
        priors: Number of priors C.
        dim: Number of dimensions z.

    Example:
        >>> Divergence(priors=2, dim=3)(torch.zeros(5, 3), torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(self, priors: int, dim: int):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(priors, dim))
        self.log_sigma = nn.Parameter(torch.zeros(priors, dim))

    def extra_repr(self) -> str:
        priors, dim = self.mean.shape
        return f"priors={priors}, dim={dim}"

    def forward(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        """KL `[N, C]` of codes with means and log standard deviations `[N, z]`."""
        shift = (mean[:, None] - self.mean) * (-self.log_sigma).exp()
        log_ratio = log_sigma[:, None] - self.log_sigma
        return ((2 * log_ratio).exp() / 2 + shift.square() / 2 - log_ratio - 0.5).sum(2)


class Bottleneck(Widened):
    """A Gaussian code between the features and the head, with learned priors beside it.

    `divergence` gives the KL of the code to each prior, so a tap reads it as the layer
    `"divergence"`. `forward` is deterministic; only training draws fresh samples.

    Args:
        network: As `Widened` takes it.
        priors: 1, or the number of classes for a prior each; None takes the number of classes.
        dim: z, the size of the code.
        samples: Class probabilities come from the mean of the code if 0, otherwise they are the
            average over this many seeded draws, the same for every image.
        head: As `Widened` takes it.
        sigma: Standard deviation of the codes before training. Images like those of training learn
            to widen theirs towards the prior; others keep a narrow code, which is many nats away.
    """

    noise: Tensor

    def __init__(
        self,
        network: nn.Module,
        priors: int | None = 1,
        dim: int = 64,
        samples: int = 0,
        head: str | None = None,
        sigma: float = 0.3,
    ):
        super().__init__(network, head)
        if not sigma > 0:
            raise ValueError(f"sigma is {sigma}; the codes need a width above 0")
        self.dim = dim
        self.encoder = nn.Linear(self.features, 2 * dim)
        self.encoder.bias.data[dim:] += math.log(math.expm1(sigma))
        self.divergence = Divergence(priors or self.classes, dim)
        noise = torch.randn(samples, 1, dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise, persistent=False)
        self.head = nn.Linear(dim, self.classes)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation `[N, z]` of the codes of images."""
        code = self.encoder(self.network(image))
        # A sum over 64 squares needs more than half precision.
        code = code.to(torch.promote_types(code.dtype, torch.float32))
        mean, rho = code.split(self.dim, dim=1)
        return mean, log_softplus(rho)

    def forward(self, image: Tensor) -> Tensor:
        mean, log_sigma = self.encode(image)
        self.divergence(mean, log_sigma)  # Not used here: a tap reads it.
        logits = self.head(mean.to(self.head.weight.dtype))
        return self._averaged(mean, log_sigma) if len(self.noise) else logits

    def _averaged(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        """Log of the class probabilities averaged over the seeded draws, `[N, K]`."""
        draws = (mean + log_sigma.exp() * self.noise).to(self.head.weight.dtype)
        # Not a call of the head: a tap takes that call's input for the features.
        logits = F.linear(draws, self.head.weight, self.head.bias)
        return logits.log_softmax(2).logsumexp(0) - math.log(len(draws))


def log_softplus(x: Tensor) -> Tensor:
    """log(softplus(x)), which tends to x where softplus underflows."""
    tail = x < -15
    return torch.where(tail, x, F.softplus(x.masked_fill(tail, 0)).log())


@described
def bottleneck(
    network: nn.Module,
    priors: int | None = 1,
    dim: int = 64,
    samples: int = 0,
    head: str | None = None,
    sigma: float = 0.3,
) -> Bottleneck:
    """Puts a variational information bottleneck before a classifier's head (VIB, VIBY).

    Alemi et al., 2017, https://arxiv.org/abs/1612.00410, with the prior learned; one prior per
    class after Sreeramdass & Sarawagi, §3. A tap reads the KL as the layer `"divergence"`.

    Args:
        network: From images to logits `[N, K]`, trained or not; its last linear layer is replaced.
        priors: 1, or the number of classes for a prior each; None takes the number of classes.
        dim: z, the size of the code.
        samples: 0 for class probabilities from the mean of the code, otherwise the number of
            seeded draws that they are averaged over.
        head: Path of the last linear layer; None finds it.
        sigma: Standard deviation of the codes before training.

    Example:
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> network = bottleneck(inner, priors=None)
        >>> mean, log_sigma = network.encode(torch.rand(5, 1, 2, 2))
        >>> mean.shape, network.divergence(mean, log_sigma).shape
        (torch.Size([5, 64]), torch.Size([5, 3]))
    """
    return Bottleneck(network, priors, dim, samples, head, sigma)
