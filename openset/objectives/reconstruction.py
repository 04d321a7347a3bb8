"""A plain autoencoder: the image itself is the target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from openset.objectives.base import Objective

Loss = Literal["mse", "l1"]


class Reconstruction(Objective):
    """Trains an autoencoder to give its input back, by the mean error per pixel.

    Labels are not used. The detector `VMDLS` weights its score by how badly such a network
    reconstructs: Dinari & Freifeld 2022, section 3.3,
    https://proceedings.mlr.press/v180/dinari22a.html. For the detector `AutoEncoder`, Baur et al.
    take the absolute error, https://arxiv.org/abs/1804.04488.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to images of the same shape.
        loss: "mse" for the squared error, or "l1" for the absolute one.

    Example:
        >>> import torch
        >>> from openset.networks import autoencoder
        >>> objective = Reconstruction(autoencoder(channels=1, size=8))
        >>> [name for name, loss in objective.step(torch.rand(2, 1, 8, 8), torch.zeros(2))]
        ['network']
    """

    name = "reconstruction"
    classifies = False

    def __init__(self, network: nn.Module, loss: Loss = "mse"):
        super().__init__(network)
        if loss not in get_args(Loss):
            raise ValueError(f"loss must be one of {', '.join(get_args(Loss))}; got {loss!r}")
        self.loss: Loss = loss

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        error = F.mse_loss if self.loss == "mse" else F.l1_loss
        yield "network", error(self.network(image), image)
