"""Label maps as one detector sees them: pixels pooled and per image, and the maps of a few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from openset.activations import UNKNOWN
from openset.evaluation.definitions import confusion, mean_iou
from openset.evaluation.maps import Maps
from openset.evaluation.metrics import METRICS, PIXEL, STANDARD
from openset.evaluation.pooled import BINS, HELD, PooledScores, grouped, packed
from openset.evaluation.ranking import Ranking
from openset.evaluation.seen import Seen
from openset.sampling import some_of_each
from openset.scoring.answers import Answer
from openset.scoring.scored import Scored, joined
from openset.scoring.threshold import ThresholdRecord

SHOWN = 1_000
"""Pixels of each kind and set that are kept for histograms and curves."""


PICTURED = 2
"""Images of each set that are shown for each detector."""


LEAST_UNKNOWN = 0.005
"""Share of an image that must be unknown for it to be shown."""


class PixelSample:
    """Draws a few known and unknown pixels of each image, the same ones for every detector.

    Args:
        images: Number of images; None if it is not known.
    """

    def __init__(self, images: int | None = None):
        self.share = SHOWN if images is None else max(1, -(-SHOWN // max(images, 1)))
        self.generator = torch.Generator().manual_seed(0)
        self.drawn: tuple[Tensor | None, Tensor] = (None, torch.zeros(0))

    @classmethod
    def of(cls, source: Any) -> Self:
        """The sample of a data set, a loader or a list of batches."""
        return cls(len(source) if hasattr(source, "__len__") else None)

    def positions(self, label: Tensor) -> Tensor:
        """Positions in the flattened batch of label maps `[N, H, W]`."""
        if self.drawn[0] is not label:
            kinds = (label == UNKNOWN).long().masked_fill(label < UNKNOWN, -1).flatten(1)
            size = kinds.shape[1]
            found = [some_of_each(row, self.share, self.generator) for row in kinds]
            chosen = torch.cat([i * size + places for i, places in enumerate(found)])
            self.drawn = (label, chosen)
        return self.drawn[1]


class Pixels(Seen):
    """Labelled pixels: each set is measured on its own pixels of both kinds, mIoU on the known set.

    Unknown is positive in AP and `fpr_at_95_tpr_unknown`. Scores are taken in single precision, and
    pixels that are `VOID` are left out. Figures pooled over all pixels equal scikit-learn's while
    there are at most `held` of them; per-image figures always do, averaged over the images that
    hold both kinds.

    Args:
        name: Name of the set in errors.
        sample: Choice of the pixels that are kept for the report; detectors share one.
        held: Pixels up to which pooled figures are exact.
        bins: Bins used beyond.

    Example:
        >>> label = torch.tensor([[[0, 1], [-1, -1]]])
        >>> score = torch.tensor([[[0.1, 0.4], [0.3, 0.9]]])
        >>> seen = Pixels()
        >>> scored = Scored(score, label, predicted=torch.tensor([[[0, 1], [1, 0]]]))
        >>> seen.add(Answer("msp", torch.rand(1, 3, 2, 2), scored, classes=2))
        >>> seen.close()
        >>> seen.measure(seen, ["miou", "auroc"], threshold=None)
        {'miou': 1.0, 'auroc': 0.75}
    """

    def __init__(
        self,
        name: str = "the data",
        sample: PixelSample | None = None,
        *,
        held: int = HELD,
        bins: int = BINS,
    ):
        self.name = name
        self.sample = sample or PixelSample()
        self.pooled = PooledScores(held, bins)
        self.confusion = np.zeros((0, 0), dtype=np.int64)
        self.per_image: dict[str, list[float]] = {name: [] for name in _single_figures()}
        self.figures = {}
        self.kept: list[Scored] = []
        self._maps: list[Maps] = []

    def add(self, answer: Answer) -> None:
        scored = answer.scored
        self._count(scored, answer.classes)
        for score, label in zip(scored.score, scored.label, strict=True):
            keys = packed(score[label >= UNKNOWN], label[label >= UNKNOWN] == UNKNOWN)
            self.pooled.add(keys)
            ranking = grouped(np.sort(keys))
            if ranking.complete:
                for name, found in self.per_image.items():
                    found.append(_figure(name, ranking))
        self.kept.append(scored.rows()[self.sample.positions(scored.label)])
        self._keep_maps(answer)

    def _count(self, scored: Scored, classes: int) -> None:
        highest = int(scored.label.max())
        if highest >= classes:
            raise ValueError(
                f"label {highest} is outside 0…{classes - 1}: the network has "
                f"{classes} classes; map the labels to them, or to UNKNOWN or VOID"
            )
        counts = confusion(scored.label.numpy(), scored.predicted.numpy(), classes)
        self.confusion = self.confusion + counts if self.confusion.size else counts

    def _keep_maps(self, answer: Answer) -> None:
        """Keeps the first images that hold enough unknown pixels."""
        for i, image in enumerate(answer.image):
            its = answer.scored[i]
            share = float((its.label == UNKNOWN).double().mean())
            if len(self._maps) < PICTURED and share >= LEAST_UNKNOWN:
                self._maps.append(Maps.small(image, its))

    def close(self) -> None:
        if not self.kept:
            raise ValueError(f"{self.name} gave no batch of images")
        if self.confusion.any():
            self.figures["miou"] = mean_iou(self.confusion)
        ranking = self.pooled.ranking()
        if ranking.complete:
            for name in PIXEL:
                if METRICS[name].figure:
                    self.figures[name] = _figure(name, ranking)
                elif single := METRICS[name].mean_of:
                    each = self.per_image[single]
                    self.figures[name] = fmean(each) if each else math.nan
        self.kept = [joined(self.kept)]
        self.pooled, self.per_image = PooledScores(), {}

    def measure(
        self, known: Seen, metrics: Sequence[str] | None, threshold: ThresholdRecord | None
    ) -> dict[str, float]:
        if "auroc" not in self.figures:
            raise ValueError(f"{self.name} has no pixels of both kinds, known and unknown")
        # Who names all that is usual of whole images means all that is usual of pixels.
        every = metrics is None or set(STANDARD) <= set(metrics)
        found = {}
        for name in PIXEL if every else [name for name in metrics or () if name in PIXEL]:
            side = self if METRICS[name].needs_unknown else known
            if name in side.figures:
                found[name] = side.figures[name]
        return found

    def scored(self, *, unknown: bool) -> Scored:
        (kept,) = self.kept
        return kept[(kept.label == UNKNOWN) == unknown]

    @property
    def maps(self) -> list[Maps]:
        return self._maps


def _single_figures() -> list[str]:
    """The metrics that are averaged over images."""
    return [METRICS[name].mean_of for name in PIXEL if METRICS[name].mean_of]


def _figure(name: str, ranking: Ranking) -> float:
    figure = METRICS[name].figure
    assert figure is not None
    return figure(ranking)
