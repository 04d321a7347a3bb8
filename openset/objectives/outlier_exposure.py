"""Trains a classifier with real images of another set as outliers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from openset.data import Adapter, load_images
from openset.objectives.patches import SIDES, Patches
from openset.objectives.synthetic_outliers import SyntheticOutliers, outlier_shape
from openset.spec import Range


class OutlierExposure(SyntheticOutliers):
    """Trains with real images of another set as outliers: what drawn outliers may come up to.

    The loss is that of the other outliers here, CE + λ KL(U ‖ p) on the foreign images, or where a
    piece of one is pasted into each image whose pixels are labelled. The data are named in the
    objective, in every model of the network and in every result; a test on them is refused.

    Paper: Hendrycks, Mazeika & Dietterich, "Deep Anomaly Detection with Outlier Exposure", 2019,
    https://arxiv.org/abs/1812.04606; they show two unknown images for each known one.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]` or `[N, K, H, W]`.
        data: The other set, a data string without settings; read at the first step.
        weight: λ, the weight of KL(U ‖ p); None for 0.5, and 1e-3 where pixels are labelled.
        count: Outliers per batch of whole images; None draws two for each image.
        sides: Smallest and largest side of a pasted piece, as shares of the image's shorter side.
        limit: So many images of the other set are kept in memory, drawn from a seed.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
        >>> objective = OutlierExposure(network, "digits:test")
        >>> [who for who, _ in objective.step(torch.rand(2, 1, 8, 8), torch.tensor([0, 2]))]
        ['network']
    """

    unknown_data = ("data",)

    def __init__(
        self,
        network: nn.Module,
        data: str,
        weight: float | None = None,
        count: int | None = None,
        sides: Sequence[float] = SIDES,
        limit: Annotated[int, Range(least=1)] = 10_000,
    ):
        super().__init__(network, weight, count, sides)
        self.data, self.limit = data, limit
        self.pool: Tensor | None = None

    def draw(self, n: int, size: tuple[int, int], generator: torch.Generator | None) -> Tensor:
        pool = self._pool()
        tall, wide = (whole - side for whole, side in zip(pool.shape[-2:], size, strict=True))
        source = pool.device if generator is None else generator.device
        which = torch.rand(3, n, generator=generator, device=source).to(pool.device)
        count = torch.tensor([len(pool), tall + 1, wide + 1], device=pool.device)
        index, top, left = (which * count[:, None]).long()
        rows = top[:, None] + torch.arange(size[0], device=pool.device)
        columns = left[:, None] + torch.arange(size[1], device=pool.device)
        cut = pool.movedim(1, -1)[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return cut.movedim(-1, 1).float() / 255

    def strength(self, place: Patches | None) -> float:
        """The weight λ, or the paper's for whole images."""
        return 0.5 if self.weight is None and place is None else super().strength(place)

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        place = self.place(image, label)
        self._note_shape(image, place)
        count = 2 * len(image) if self.count is None else self.count
        outliers = self.draw(*outlier_shape(count, image, place), None)
        cross_entropy, divergence = self.classify(image, label, outliers, place)
        yield "network", cross_entropy + self.strength(place) * divergence

    def _pool(self) -> Tensor:
        """The foreign images, uint8, of the training images' size or that of the largest piece."""
        if self.pool is None:
            channels, height, width = self.image_shape.tolist()
            found = load_images(self.data, Adapter((height, width), channels, resize="shorter"))
            order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
            few = found.subset(order[: self.limit].sort().values.tolist())
            self.pool = few.images.to(self.image_shape.device)
        return self.pool
