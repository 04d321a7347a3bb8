"""How well scores tell unknown pixels from known ones: image by image, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from openset.activations import UNKNOWN

PIXEL = (
    "miou",
    "ap",
    "auroc",
    "fpr_at_95_tpr_unknown",
    "fpr_at_95_tpr",
    "ap_per_image",
    "auroc_per_image",
    "fpr_at_95_tpr_unknown_per_image",
)
"""What is measured where pixels are labelled."""


HELD = 2**24
"""Pixels up to which the pooled figures are exact; beyond, scores are counted in bins."""


BINS = 2**16
"""Bins whose edges are quantiles of the first `HELD` pixels, half of the known, half of the others.

A score is off by one bin at most, which moves a share of known or unknown by 2⁻¹⁵ if later images
score as the first ones do.
"""


class PixelMetrics:
    """Collects scores, labels and predictions of pixels, and measures them at the end.

    Unknown is positive in AP and `fpr_at_95_tpr_unknown`. Scores are taken in single precision.
    Pixels that are `VOID` are left out. Figures pooled over all pixels equal scikit-learn's while
    there are at most `held` of them; per-image figures always do, averaged over the images that
    hold both kinds.

    Args:
        classes: The number of known classes, for mIoU; 0 leaves it out.
        held: Pixels up to which pooled figures are exact.
        bins: Bins used beyond.

    Example:
        >>> found = PixelMetrics(classes=2)
        >>> found.add(
        ...     score=torch.tensor([[[0.1, 0.4], [0.3, 0.9]]]),
        ...     label=torch.tensor([[[0, 1], [-1, -1]]]),
        ...     predicted=torch.tensor([[[0, 1], [1, 0]]]),
        ... )
        >>> found.measure(["auroc", "miou"])
        {'auroc': 0.75, 'miou': 1.0}
    """

    def __init__(self, classes: int = 0, held: int = HELD, bins: int = BINS):
        self.classes = classes
        self.confusion = torch.zeros(classes, classes, dtype=torch.long)
        self.pooled = PooledScores(held, bins)
        self.per_image: list[dict[str, float]] = []

    def add(self, score: Tensor, label: Tensor, predicted: Tensor | None = None) -> None:
        """Takes in a batch.

        Args:
            score: `[N, H, W]`; higher = more unknown.
            label: `[N, H, W]`; a known class, `UNKNOWN` or `VOID`.
            predicted: The known class that fits best `[N, H, W]`; only mIoU needs it.
        """
        if self.classes and predicted is not None:
            self._count(label, predicted)
        for each, its_label in zip(score, label, strict=True):
            keys = packed(each[its_label >= UNKNOWN], its_label[its_label >= UNKNOWN] == UNKNOWN)
            self.pooled.add(keys)
            counts = grouped(np.sort(keys))
            if all(side.any() for side in counts):
                self.per_image.append(ranked(*counts))

    def _count(self, label: Tensor, predicted: Tensor) -> None:
        if int(label.max()) >= self.classes:
            raise ValueError(
                f"label {int(label.max())} is outside 0…{self.classes - 1}: the network has "
                f"{self.classes} classes; map the labels to them, or to UNKNOWN or VOID"
            )
        pairs = torch.where(label >= 0, label * self.classes + predicted, self.classes**2)
        counts = torch.bincount(pairs.flatten().cpu(), minlength=self.classes**2 + 1)
        self.confusion += counts[:-1].view_as(self.confusion)

    @property
    def miou(self) -> float:
        """Mean intersection over union of the classes that occur or were predicted."""
        hits = self.confusion.diagonal().double()
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        return float((hits[union > 0] / union[union > 0]).mean())

    def measure(self, metrics: Iterable[str]) -> dict[str, float]:
        """The named metrics of `PIXEL`, as far as there are pixels for them."""
        pooled = self.pooled.measure()
        found = {f"{name}_per_image": _mean([x[name] for x in self.per_image]) for name in pooled}
        found |= pooled
        if self.classes and bool(self.confusion.any()):
            found["miou"] = self.miou
        return {name: found[name] for name in metrics if name in found}


class PooledScores:
    """Scores of known and unknown pixels: every one while they are few, else counted in bins."""

    def __init__(self, held: int = HELD, bins: int = BINS):
        self.held, self.bins = held, bins
        self.waiting: list[np.ndarray] = []
        self.edges: np.ndarray | None = None
        self.counts = np.zeros((2, bins + 1), dtype=np.int64)

    def add(self, keys: np.ndarray) -> None:
        """Takes in pixels as `packed` gives them."""
        self.waiting.append(keys)
        if sum(map(len, self.waiting)) > self.held:
            self._fold()

    def measure(self) -> dict[str, float]:
        """AUROC, AP and both FPR95; empty if there are not both kinds of pixels."""
        if self.edges is None:
            counts = grouped(np.sort(np.concatenate([np.zeros(0, np.uint64), *self.waiting])))
        else:
            self._fold()
            counts = (self.counts[0], self.counts[1])
        return ranked(*counts) if all(side.any() for side in counts) else {}

    def _fold(self) -> None:
        """Counts what waits; the first time, its quantiles become the edges of the bins."""
        keys = np.sort(np.concatenate([np.zeros(0, np.uint64), *self.waiting]))
        self.waiting = []
        sides = [(keys[keys & 1 == bit] >> 1).astype(np.uint32) for bit in (0, 1)]
        if self.edges is None:
            edges = [_quantiles(side, self.bins // 2) for side in sides if len(side)]
            self.edges = np.unique(np.concatenate(edges))
            self.counts = np.zeros((2, len(self.edges) + 1), dtype=np.int64)
        for side, counts in zip(sides, self.counts, strict=True):
            # Few edges are looked up among many sorted scores, not the other way round.
            below = np.searchsorted(side, self.edges, side="right")
            counts += np.diff(below, prepend=0, append=len(side))


def packed(score: Tensor, is_unknown: Tensor) -> np.ndarray:
    """Scores as integers of the same order, above a last bit for unknown: uint64 `[M]`.

    Raises:
        ValueError: For NaN.
    """
    x = score.detach().float().flatten().cpu() + 0.0  # −0 becomes 0.
    if bool(x.isnan().any()):
        raise ValueError(
            f"{int(x.isnan().sum())} of {len(x)} scores are NaN and cannot be ranked; "
            "look for NaN in the images or in the network's output"
        )
    bits = x.numpy().view(np.int32)
    # Negative floats order backwards as integers: all their bits are turned.
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) + 2**31
    return (ordered.astype(np.uint64) << np.uint64(1)) | is_unknown.cpu().numpy().astype(np.uint64)


def grouped(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many known and how many unknown pixels have each score, scores ascending."""
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    score = keys >> np.uint64(1)
    starts = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))
    unknown = np.add.reduceat((keys & np.uint64(1)).astype(np.int64), starts)
    return np.diff(starts, append=len(keys)) - unknown, unknown


def ranked(known: np.ndarray, unknown: np.ndarray) -> dict[str, float]:
    """What follows from the counts of known and unknown at ascending scores; ties are one step."""
    all_known, all_unknown = known.sum(), unknown.sum()
    accepted, missed = known.cumsum(), unknown.cumsum()
    wins = (unknown * (accepted - known / 2)).sum()
    # From the highest score down: unknown found, known raised by mistake.
    found, raised = unknown[::-1].cumsum(), known[::-1].cumsum()
    precision = found / np.maximum(found + raised, 1)
    at_found = np.argmax(found / all_unknown >= 0.95)
    at_accepted = np.argmax(accepted / all_known >= 0.95)
    return {
        "auroc": float(wins / (all_known * all_unknown)),
        "ap": float((precision * unknown[::-1]).sum() / all_unknown),
        "fpr_at_95_tpr_unknown": float(raised[at_found] / all_known),
        "fpr_at_95_tpr": float(missed[at_accepted] / all_unknown),
    }


def _quantiles(ordered: np.ndarray, count: int) -> np.ndarray:
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(np.int64)
    return ordered[places]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
