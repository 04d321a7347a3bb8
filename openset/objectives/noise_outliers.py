"""Trains a classifier with Gaussian noise as the plainest synthetic outlier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from openset.objectives.patches import SIDES
from openset.objectives.synthetic_outliers import SyntheticOutliers, image_channels, outlier_shape


class NoiseOutliers(SyntheticOutliers):
    """Trains with Gaussian noise as outliers, the baseline that a learned outlier must beat.

    The loss is that of Lee et al., "Training Confidence-calibrated Classifiers for Detecting
    Out-of-Distribution Samples", 2018, https://arxiv.org/abs/1711.09325, without its GAN.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]` or `[N, K, H, W]`.
        weight: λ, the weight of KL(U ‖ p) on the noise; None for 1, and 1e-3 where pixels are
            labelled.
        mean: Mean of the noise, in 0…1.
        std: Its standard deviation; values are clipped to 0…1. The default is the noise that
            ODIN's authors test on, so a result on `gaussian-noise` is no test of this objective.
        count: Outliers per batch; None draws one for each image.
        sides: Smallest and largest side of pasted noise, as shares of the image's shorter side.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten())
        >>> objective = NoiseOutliers(network)
        >>> [who for who, _ in objective.step(torch.rand(2, 1, 4, 4), torch.tensor([0, 2]))]
        ['network']
    """

    def __init__(
        self,
        network: nn.Module,
        weight: float | None = None,
        mean: float = 0.5,
        std: float = 1.0,
        count: int | None = None,
        sides: Sequence[float] = SIDES,
    ):
        super().__init__(network, weight, count, sides)
        self.mean, self.std = mean, std

    def draw(self, n: int, size: tuple[int, int], generator: torch.Generator | None) -> Tensor:
        device = next(self.network.parameters()).device
        shape = (n, image_channels(self.network), *size)
        source = device if generator is None else generator.device
        noise = torch.randn(shape, generator=generator, device=source).to(device)
        return (self.mean + self.std * noise).clamp(0, 1)

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        place = self.place(image, label)
        n, size = outlier_shape(self.count, image, place)
        outliers = self.draw(n, size, None)
        cross_entropy, divergence = self.classify(image, label, outliers, place)
        yield "network", cross_entropy + self.strength(place) * divergence
