"""A plain autoencoder: the image itself is the target."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from openset.objectives.base import Objective


class Reconstruction(Objective):
    """Trains an autoencoder to give its input back, by the mean squared error per pixel.

    Labels are not used. The detector `VMDLS` weights its score by how badly such a network
    reconstructs: Dinari & Freifeld 2022, section 3.3,
    https://proceedings.mlr.press/v180/dinari22a.html

    Args:
        network: From images `[N, C, H, W]` in 0…1 to images of the same shape.

    Example:
        >>> import torch
        >>> from openset.networks import autoencoder
        >>> objective = Reconstruction(autoencoder(channels=1, size=8))
        >>> [name for name, loss in objective.step(torch.rand(2, 1, 8, 8), torch.zeros(2))]
        ['network']
    """

    name = "reconstruction"
    classifies = False

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield "network", F.mse_loss(self.network(image), image)
