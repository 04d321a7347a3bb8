"""Scores and predicted classes of every detector from one pass for each view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from openset.activations import UNKNOWN, Activations
from openset.detectors import Detector
from openset.extractors.tap import Tap
from openset.scoring.scored import Scored
from openset.scoring.views import Views

Detectors = Sequence[Detector] | Mapping[str, Detector]


def score(
    tap: Tap, detectors: Detectors, images: Any, *, batch_size: int = 256
) -> dict[str, Scored]:
    """Scores and predicted classes of images by every detector, from one pass for each view.

    Only scores are kept, so memory does not grow with the features.

    Args:
        tap: Reads the network; its layers must cover those of the detectors.
        detectors: Fitted detectors, by name or in a list.
        images: An image set, a data set of (image, label), a loader or a list of batches.
        batch_size: Images per pass.

    Returns:
        By the detector's name, score, label and predicted class of every image, or of every pixel
        that is not void.
    """
    named = by_name(detectors)
    answers = Answers(named)
    for _, label, looks in Views(tap, named).stream(images, batch_size):
        for names, seen in looks:
            answers.add(replace(seen.to("cpu"), labels=label), names)
    return answers.scored()


class Answers:
    """What detectors say of one batch after another: scores, labels and predicted classes."""

    def __init__(self, detectors: Mapping[str, Detector]):
        self.detectors = detectors
        self.parts: dict[str, list[Scored]] = {name: [] for name in detectors}

    @torch.no_grad()
    def add(self, batch: Activations, names: Iterable[str]) -> None:
        """Asks the named detectors; without labels every row counts as unknown."""
        rows = batch.rows()
        labels = rows.labels if rows.labels is not None else torch.full((len(rows),), UNKNOWN)
        for name in names:
            predicted, score = self.detectors[name].answer(batch)
            self.parts[name].append(Scored(score.cpu(), labels.cpu(), predicted.cpu()))

    def scored(self) -> dict[str, Scored]:
        """All that was said, by the detector's name."""
        if not all(self.parts.values()):
            raise ValueError("no images: the data set or the loader gave no batch")
        return {name: joined(parts) for name, parts in self.parts.items()}


def joined(parts: Sequence[Scored]) -> Scored:
    """One after another."""
    columns = zip(*((p.score, p.label, p.predicted) for p in parts), strict=True)
    return Scored(*(torch.cat(column) for column in columns))


def by_name(detectors: Detectors) -> dict[str, Detector]:
    """Detectors by name; those of one kind are told apart by their settings."""
    if isinstance(detectors, Mapping):
        return dict(detectors)
    kinds = [detector.name for detector in detectors]
    named = {d.name if kinds.count(d.name) == 1 else repr(d): d for d in detectors}
    if len(named) < len(detectors):
        raise ValueError("two detectors are the same; give each a name: evaluate(tap, {name: …})")
    return named
