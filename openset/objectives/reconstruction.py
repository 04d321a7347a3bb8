"""A plain autoencoder: the image itself is the target."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from openset.objectives.base import Objective


class Reconstruction(Objective):
    """Trains an autoencoder to give its input back, by the mean squared error per pixel.

    Labels are not used. VMDLS weights its score by how badly such a network reconstructs.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to images of the same shape.
    """

    name = "reconstruction"

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield "network", F.mse_loss(self.network(image), image)
