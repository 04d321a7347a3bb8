"""NNGuide: the energy of an image, guided by that of training images alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self

from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.densities.base import in_chunks
from openset.detectors.base import Detector
from openset.detectors.knn import CHUNK
from openset.detectors.rows import Rows, sampled
from openset.spec import Count


class NNGuide(Detector):
    """Scores an image by log Σ exp(logit) times its likeness to training images, negated.

    Park, Jung & Teoh, 2023, https://arxiv.org/abs/2309.14888: the likeness is the mean over the k
    largest of cos(x, z) · log Σ exp(logit of z) over training images z, so an image is known if the
    network is sure of it and of images that look so.

    Args:
        k: The number of training images that guide.
        max_rows: The most training images kept, a seeded sample of all; the paper takes 1 %.
        seed: Seed of the sample.

    Example:
        >>> import torch
        >>> x = torch.eye(2)
        >>> batch = Activations(x, {"penultimate": x}, torch.arange(2))
        >>> guided = NNGuide(k=1).fit([batch]).score(batch)
        >>> torch.allclose(guided, -x.logsumexp(1) ** 2)
        True
    """

    name = "nnguide"
    layers = ("penultimate",)
    bank: Tensor

    def __init__(self, k: Count = 10, max_rows: Count = 50_000, seed: int = 0):
        super().__init__()
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}")
        self.k, self.max_rows, self.seed = k, max_rows, seed

    def fit(self, batches: Iterable[Activations]) -> Self:
        rows = Rows(batches, ("penultimate", "logits"))
        kept = sampled(guiding(rows), self.max_rows, self.seed)
        if len(kept) < self.k:
            raise ValueError(
                f"k={self.k} guides need as many training rows; got {len(kept)}: lower k, give "
                "more images, or raise max_rows"
            )
        self.keep(bank=kept)
        return self

    def score(self, rows: Activations) -> Tensor:
        bank = self.bank.to(rows.logits.dtype)
        most = max(1, CHUNK // len(bank))
        x = F.normalize(rows.stacked(self.layers), dim=1)
        guide = in_chunks(lambda part: (part @ bank.T).topk(self.k).values.mean(1), x, most)
        return -guide * rows.logits.logsumexp(1)


def guiding(rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """Unit features times log Σ exp(logit), of rows that hold both side by side."""
    classes = rows.classes
    for both, labels in rows:
        x, logits = both[:, :-classes], both[:, -classes:]
        yield F.normalize(x, dim=1) * logits.logsumexp(1, keepdim=True), labels
