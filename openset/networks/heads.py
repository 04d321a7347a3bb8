"""Heads that widen a trained or untrained classifier: a sigmoid head, a stochastic bottleneck."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.layers import find_head, find_stages


class Widened(nn.Module):
    """A network whose head is taken off, so that another head can read its last features.

    The network given is left as it is; this holds a copy.

    Args:
        network: From images to logits `[N, K]`; its last linear layer is the head.
        head: Path of the head; None finds it.
    """

    spec: dict[str, Any] | None = None

    def __init__(self, network: nn.Module, head: str | None = None):
        super().__init__()
        path = find_head(network) if head is None else head
        linear = network.get_submodule(path) if path else None
        if not isinstance(linear, nn.Linear):
            raise ValueError(
                f"the head of {type(network).__name__} is {path!r}, which is no nn.Linear; "
                "name its last linear layer: head='…' (networks that label pixels have none)"
            )
        self.features, self.classes = linear.in_features, linear.out_features
        self.network = copy.deepcopy(network)
        self.network.set_submodule(path or "", nn.Identity())
        self.stages = tuple(f"network.{stage}" for stage in find_stages(network))

    @property
    def normalize(self) -> nn.Module | None:
        """The inner network's normalisation, if it has one."""
        return getattr(self.network, "normalize", None)


class BinaryHeads(Widened):
    """Two linear heads on one widened output: softmax logits, and a sigmoid logit per class.

    Args:
        network: As `Widened` takes it.
        dim: z, the size of the output that both heads read.
        head: As `Widened` takes it.
    """

    def __init__(self, network: nn.Module, dim: int = 64, head: str | None = None):
        super().__init__(network, head)
        self.widen = nn.Linear(self.features, dim)
        self.binary = nn.Linear(dim, self.classes)
        self.head = nn.Linear(dim, self.classes)

    def heads(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax logits and sigmoid logits of images, `[N, K]` each."""
        x = self.widen(self.network(image))
        return self.head(x), self.binary(x)

    def forward(self, image: Tensor) -> Tensor:
        return self.heads(image)[0]


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
        logits = self.head(mean)
        return self._averaged(mean, log_sigma) if len(self.noise) else logits

    def _averaged(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        """Log of the class probabilities averaged over the seeded draws, `[N, K]`."""
        draws = mean + log_sigma.exp() * self.noise
        # Not a call of the head: a tap takes that call's input for the features.
        logits = F.linear(draws, self.head.weight, self.head.bias)
        return logits.log_softmax(2).logsumexp(0) - math.log(len(draws))


def log_softplus(x: Tensor) -> Tensor:
    """log(softplus(x)), which tends to x where softplus underflows."""
    tail = x < -15
    return torch.where(tail, x, F.softplus(x.masked_fill(tail, 0)).log())


def binary_heads(network: nn.Module, dim: int = 64, head: str | None = None) -> BinaryHeads:
    """Puts a softmax head and a sigmoid head on a classifier (BINC).

    Sreeramdass & Sarawagi, "Out-of-distribution image detection with deep neural networks", §3.
    A tap reads the sigmoid logits as the layer `"binary"`.

    Args:
        network: From images to logits `[N, K]`, trained or not; its last linear layer is replaced.
        dim: z, the size of the output that both heads read.
        head: Path of that last linear layer; None finds it.

    Example:
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> softmax, sigmoid = binary_heads(inner).heads(torch.rand(5, 1, 2, 2))
        >>> softmax.shape, sigmoid.shape
        (torch.Size([5, 3]), torch.Size([5, 3]))
    """
    widened = BinaryHeads(network, dim, head)
    widened.spec = _nested("binary-heads", network, dim=dim, head=head)
    return widened


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
    widened = Bottleneck(network, priors, dim, samples, head, sigma)
    settings = {"priors": priors, "dim": dim, "samples": samples, "head": head, "sigma": sigma}
    widened.spec = _nested("bottleneck", network, **settings)
    return widened


def _nested(name: str, network: nn.Module, **settings: Any) -> dict[str, Any] | None:
    """The spec of a widened network; None if nobody noted how the inner one was made."""
    inner = getattr(network, "spec", None)
    return None if inner is None else {"name": name, "network": inner, **settings}
