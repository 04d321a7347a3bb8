"""Distance to the k-th nearest training image, by the direction of the features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.densities.base import in_chunks
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, choose_layers, sampled
from openset.spec import Count

CHUNK = 2**24
"""Largest number of similarities held at once."""


class KNN(Detector):
    """Scores an image by the distance of its features to those of the k-th nearest training image.

    Sun et al., 2022, https://arxiv.org/abs/2204.06507: features are scaled to unit length, so only
    their direction counts, and the score is the Euclidean distance, which lies in 0…2.

    Args:
        k: Which neighbour; the paper takes 50 for CIFAR-10, 200 for CIFAR-100, 1,000 for ImageNet.
        layers: The layers to read, side by side; None for all stages, penultimate and logits.
        max_rows: The most training images kept, a seeded sample of all.
        seed: Seed of the sample.

    Example:
        >>> import torch
        >>> x = torch.eye(2).repeat(20, 1)
        >>> batch = Activations(x, {"penultimate": x}, torch.arange(40) % 2)
        >>> far = Activations(x[:1], {"penultimate": torch.tensor([[-1.0, 0.0]])})
        >>> round(KNN(k=5).fit([batch]).score(far).item(), 3)
        1.414
    """

    name = "knn"
    rows: Tensor

    def __init__(
        self,
        k: int = 50,
        layers: Sequence[str] | None = ("penultimate",),
        max_rows: Count = 50_000,
        seed: int = 0,
    ):
        super().__init__()
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}")
        self.k, self.layers, self.max_rows, self.seed = k, layers, max_rows, seed

    def fit(self, batches: Iterable[Activations]) -> Self:
        self.found_layers = choose_layers(batches, self.layers)
        kept = sampled(Rows(batches, self.found_layers), self.max_rows, self.seed)
        if len(kept) < self.k:
            raise ValueError(
                f"k={self.k} neighbours need as many training rows; got {len(kept)}: "
                "lower k, give more images, or raise max_rows"
            )
        self.keep(rows=F.normalize(kept, dim=1))
        return self

    def score(self, rows: Activations) -> Tensor:
        x = F.normalize(rows.stacked(self.layers_read), dim=1)
        known = self.rows.to(x.dtype)

        def farthest(part: Tensor) -> Tensor:
            return (part @ known.T).topk(self.k).indices[:, -1]

        nearest = in_chunks(farthest, x, max(1, CHUNK // len(known)))
        # From the difference: 2 − 2 cos would lose the digits of near neighbours.
        return (x - known[nearest]).norm(dim=1)
