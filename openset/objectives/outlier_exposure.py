"""A classifier that is shown unknown images, and told to have no opinion on them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.data import Adapter, load_images
from openset.data.samples import Samples, samples
from openset.objectives.base import Objective


class OutlierExposure(Objective):
    """Trains a classifier on known images, and to find all classes alike on declared unknown ones.

    The loss is cross-entropy + weight · mean over unknown images of logsumexp z − mean z, which is
    KL(U ‖ p) + log K. Every model and result of such a network names the data it was shown, and is
    refused a test on them.

    Paper: Hendrycks et al., *Deep Anomaly Detection with Outlier Exposure*, 2019,
    https://arxiv.org/abs/1812.04606.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]`, trained or not.
        data: The unknown images: a data string without settings.
        weight: The weight of the unknown images.
        ratio: Unknown images for each known one in a batch.
        limit: Take so many of the unknown images; None takes all.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten())
        >>> objective = OutlierExposure(network, data="gaussian-noise", limit=10)
        >>> [who for who, _ in objective.step(torch.rand(2, 1, 4, 4), torch.tensor([0, 2]))]
        ['network']
    """

    unknown_data = ("data",)

    def __init__(
        self,
        network: nn.Module,
        data: str,
        weight: float = 0.5,
        ratio: float = 2.0,
        limit: int | None = None,
    ):
        super().__init__(network)
        if not ratio > 0:
            raise ValueError(f"ratio must be above 0; got {ratio}")
        self.data, self.weight, self.ratio, self.limit = data, weight, ratio, limit
        self._shown: Samples | None = None

    def outliers(self, image: Tensor, count: int) -> Tensor:
        """So many of the unknown images, drawn at random, of these images' size."""
        if self._shown is None:
            channels, height, width = image.shape[1:]
            name = self.data if self.limit is None else f"{self.data},limit={self.limit}"
            adapter = Adapter((height, width), channels)
            self._shown = samples(load_images(name, adapter), image.device)
        return self._shown.take(torch.randint(len(self._shown), (count,)))[0].to(image.dtype)

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        unknown = self.outliers(image, max(1, round(self.ratio * len(image))))
        # One batch, so that batch norm cannot tell the two by their statistics.
        logits = self.logits(torch.cat([image, unknown])).float()
        known, other = logits[: len(image)], logits[len(image) :]
        exposed = (other.logsumexp(1) - other.mean(1)).mean()
        yield "network", F.cross_entropy(known, label) + self.weight * exposed
