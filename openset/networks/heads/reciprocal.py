"""Classes told by how far an image lies from what they are not (RPL, ARPL)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.base import described
from openset.networks.heads.widened import Widened


class Points(nn.Module):
    """Logits by the distance of features to points that stand for everything but a class.

    Args:
        features: Number of features D.
        classes: Number of classes K.
        adversarial: Whether logits are ARPL's, d_e − f·P, or RPL's, d_e; d_e = |f − P|² / D.
    """

    def __init__(self, features: int, classes: int, adversarial: bool):
        super().__init__()
        self.adversarial = adversarial
        self.points = nn.Parameter(0.1 * torch.randn(classes, features))

    def distances(self, x: Tensor) -> Tensor:
        """d_e of features `[N, D]` to each class's point, `[N, K]`."""
        return (x[:, None] - self.points).square().mean(2)

    def forward(self, x: Tensor) -> Tensor:
        distance = self.distances(x)
        return distance - x @ self.points.T if self.adversarial else distance


class Reciprocal(Widened):
    """A classifier in which an image is of the class whose reciprocal point is farthest away.

    Features pass a linear map `embedding` first, as those that end in a ReLU lie all to one side.
    `radius` gives the bound R of each class, above 0, which training learns; scoring needs none.

    Args:
        network: As `Widened` takes it.
        adversarial: As `Points` takes it.
        dim: D, the size of the embedding.
        shared: Whether all classes have one R, from 0 and without a bound of its own.
        head: As `Widened` takes it.
    """

    def __init__(
        self,
        network: nn.Module,
        adversarial: bool = True,
        dim: int = 128,
        shared: bool = False,
        head: str | None = None,
    ):
        super().__init__(network, head)
        self.embedding = nn.Linear(self.features, dim)
        self.points = Points(dim, self.classes, adversarial)
        # So small that features lie beyond it at first: a bound that holds none teaches nothing.
        start = torch.zeros(1) if shared else torch.full((self.classes,), -0.2)
        self.bound, self.shared = nn.Parameter(start), shared

    @property
    def radius(self) -> Tensor:
        """R of each class, `[K]`."""
        return self.bound.expand(self.classes) if self.shared else F.softplus(self.bound, 10)

    def embed(self, image: Tensor) -> Tensor:
        """The embedding `[N, D]` of images."""
        return self.embedding(self.network(image))

    def forward(self, image: Tensor) -> Tensor:
        return self.points(self.embed(image))


@described
def reciprocal(
    network: nn.Module,
    adversarial: bool = True,
    dim: int = 128,
    shared: bool = False,
    head: str | None = None,
) -> Reciprocal:
    """Puts reciprocal points in place of a classifier's head (RPL, ARPL).

    Chen et al., 2020, "Learning Open Set Network with Discriminative Reciprocal Points",
    https://arxiv.org/abs/2011.00178; 2021, "Adversarial Reciprocal Points Learning for Open Set
    Recognition", https://arxiv.org/abs/2103.00953. Logits are distances, so `max-logit` scores an
    image by how near it lies to all points at once.

    Args:
        network: From images to logits `[N, K]`, trained or not; its last linear layer is replaced.
        adversarial: ARPL's logits, |f − P|² / D − f·P, or RPL's, |f − P|² / D.
        dim: D, the size of the linear map before the points.
        shared: One bound for all classes, as in ARPL's published code, in place of one for each.
        head: Path of that last linear layer; None finds it.

    Example:
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> reciprocal(inner, dim=2)(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """
    return Reciprocal(network, adversarial, dim, shared, head)
