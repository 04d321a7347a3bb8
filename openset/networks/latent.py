"""A Gaussian latent space in place of a network's classifier (VMDLS)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from openset.networks.base import Normalize
from openset.networks.layers import find_head, find_stages


class Latent(nn.Module):
    """Encodes an image as N(μ, diag σ²) in a small space and classifies by the nearest centre.

    Logits are −|μ − centre|² / 2s², so their softmax is the posterior of classes that are
    N(centre, s²I) and equally frequent. μ is the layer `"mean"` and g, its input, the
    `"penultimate"`. `stages` ends with `"mean"`, so whoever reads the stages reads μ too.

    Args:
        network: A classifier of whole images; its last linear map is taken off, in place.
        size: Dimensions d of the latent space.
        variance: s² of each class.

    Raises:
        ValueError: If the network does not end in an `nn.Linear`.
    """

    centres: Tensor
    spec: dict[str, Any] | None = None

    def __init__(self, network: nn.Module, size: int = 32, variance: float = 0.1):
        super().__init__()
        path = find_head(network) or ""
        head = network.get_submodule(path)
        if not path or not isinstance(head, nn.Linear):
            raise ValueError(
                "a latent space replaces a network's last nn.Linear, and this network has none; "
                "give a classifier of whole images"
            )
        network.set_submodule(path, nn.Identity())
        self.network = network
        self.size, self.variance = size, variance
        self.log_variance = nn.Linear(head.in_features, size)
        self.mean = nn.Linear(head.in_features, size)
        nn.init.constant_(self.log_variance.bias, math.log(variance))
        self.register_buffer("centres", torch.zeros(head.out_features, size))
        self.stages = (*(f"network.{stage}" for stage in find_stages(network)), "mean")

    @property
    def normalize(self) -> Normalize:
        """The normalisation inside the backbone."""
        return self.network.get_submodule("normalize")  # type: ignore[return-value]

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² of images, `[N, d]` each."""
        features = self.network(image)
        return self.mean(features), self.log_variance(features)

    def nearest(self, mean: Tensor) -> Tensor:
        """Logits `[N, K]` of latent means `[N, d]`."""
        distance = (mean[:, None] - self.centres).square().sum(2)
        return -distance / (2 * self.variance)

    def forward(self, image: Tensor) -> Tensor:
        return self.nearest(self.mean(self.network(image)))


def latent(network: nn.Module, size: int = 32, variance: float = 0.1) -> Latent:
    """Replaces a network's classifier by a Gaussian latent space; see `Latent`.

    Example:
        >>> from openset.networks.base import Backbone, pooled_neck
        >>> backbone = Backbone(1, nn.Identity(), [nn.Conv2d(1, 8, 3)], pooled_neck(),
        ...                     nn.Linear(8, 10))
        >>> network = latent(backbone, size=4)
        >>> network(torch.rand(2, 1, 8, 8)).shape, network.stages
        (torch.Size([2, 10]), ('network.stage1', 'mean'))
    """
    inner = getattr(network, "spec", None)
    wrapped = Latent(network, size, variance)
    if inner is not None:
        wrapped.spec = {"name": "latent", "network": inner, "size": size, "variance": variance}
    return wrapped
