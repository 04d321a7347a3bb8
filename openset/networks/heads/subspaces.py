"""Classes as lines through the origin, at right angles to each other (SubSpaces)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.base import described
from openset.networks.heads.widened import Widened


class Directions(nn.Module):
    """|cos| of features to fixed orthonormal directions, `[N, D]` → `[N, K]`."""

    directions: Tensor

    def __init__(self, features: int, classes: int):
        super().__init__()
        if classes > features:
            raise ValueError(
                f"{classes} directions at right angles need as many features; got {features}: "
                "take a network with more, or fewer classes"
            )
        drawn = torch.randn(features, classes, generator=torch.Generator().manual_seed(0))
        self.register_buffer("directions", torch.linalg.qr(drawn)[0].T.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return (F.normalize(x, dim=1) @ self.directions.T).abs()


class Subspaces(Widened):
    """A classifier by the angle to fixed orthonormal directions, after one more linear map.

    The map is `embedding`: features that end in a ReLU cannot point both ways along a line.

    Args:
        network: As `Widened` takes it.
        head: As `Widened` takes it.
    """

    def __init__(self, network: nn.Module, head: str | None = None):
        super().__init__(network, head)
        self.embedding = nn.Linear(self.features, self.features)
        self.directions = Directions(self.features, self.classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.directions(self.embedding(self.network(image)))


@described
def subspaces(network: nn.Module, head: str | None = None) -> Subspaces:
    """Replaces a classifier's head by fixed directions at right angles, one a class (SubSpaces).

    Zaeemzadeh et al., 2021, "Out-of-Distribution Detection Using Union of 1-Dimensional Subspaces",
    https://openaccess.thecvf.com/content/CVPR2021/html/Zaeemzadeh_Out-of-Distribution_Detection_Using_Union_of_1-Dimensional_Subspaces_CVPR_2021_paper.html.
    A tap reads the features that are compared as the layer `"embedding"`.

    Args:
        network: From images to logits `[N, K]`, trained or not; its last linear layer is replaced.
        head: Path of that last linear layer; None finds it.

    Example:
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> logits = subspaces(inner)(torch.rand(5, 1, 2, 2))
        >>> bool((logits >= 0).all() and (logits <= 1).all())
        True
    """
    return Subspaces(network, head)
