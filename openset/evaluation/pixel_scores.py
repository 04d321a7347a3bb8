"""All detectors on label maps: pixels pooled and per image, and the pictures of a few images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from openset.activations import UNKNOWN, Activations
from openset.data import ImageSet
from openset.data.loaders import images_at_once
from openset.detectors import Detector
from openset.evaluation.pixel_metrics import PIXEL, PixelMetrics
from openset.extractors.tap import Tap
from openset.pictures import strip
from openset.sampling import some_of_each
from openset.scoring.scored import Scored
from openset.scoring.threshold import Threshold
from openset.scoring.views import Views

SHOWN = 1_000
"""Pixels of each kind and set that are kept for histograms and curves."""


PICTURED = 1
"""Images of each set that are shown for each detector."""


LEAST_UNKNOWN = 0.005
"""Share of an image that must be unknown for it to be shown."""


@dataclass
class Seen:
    """What one detector made of one set.

    Args:
        metrics: Takes in all its pixels.
        pixels: Some pixels of each image.
        strips: Pictures of a few images.
        measured: Every metric, once all pixels were seen.
    """

    metrics: PixelMetrics
    pixels: list[Scored] = field(default_factory=list)
    strips: list[Image.Image] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)

    def close(self) -> None:
        """Measures, and lets go of the scores that served for it."""
        self.measured = self.metrics.measure(PIXEL)
        self.metrics = PixelMetrics()

    def sample(self, *, unknown: bool) -> Scored:
        """The pixels that were kept of one kind."""
        label = torch.cat([part.label for part in self.pixels])
        keep = (label == UNKNOWN) == unknown
        score = torch.cat([part.score for part in self.pixels])
        predicted = torch.cat([part.predicted for part in self.pixels])
        return Scored(score[keep], label[keep], predicted[keep])


def same_images(one: Any, other: Any) -> bool:
    """Whether two sets are the same images with the same labels, whatever their names."""
    if not isinstance(one, ImageSet) or not isinstance(other, ImageSet):
        return one is other
    return (
        one.pixels is other.pixels
        and torch.equal(one.indices, other.indices)
        and torch.equal(one.values, other.values)
    )


def see(
    tap: Tap, detectors: Mapping[str, Detector], images: Any, thresholds: Mapping[str, Threshold]
) -> dict[str, Seen]:
    """Every detector on every pixel, with nothing computed twice."""
    share = max(1, -(-SHOWN // max(len(images), 1))) if hasattr(images, "__len__") else SHOWN
    found: dict[str, Seen] = {}
    generator = torch.Generator().manual_seed(0)
    for image, label, looks in Views(tap, detectors).stream(images, images_at_once(images)):
        chosen = None
        for names, activations in looks:
            check_grid(activations, label)
            if chosen is None:
                chosen = some_pixels(label, share, generator)
            for name in names:
                score, predicted = looked_at(detectors[name], activations)
                its = found.setdefault(name, Seen(PixelMetrics(activations.logits.shape[1])))
                its.metrics.add(score, label, predicted)
                kept = (x.flatten()[chosen] for x in (score, label, predicted))
                its.pixels.append(Scored(*kept))
                keep_strips(its, image, label, score, predicted, thresholds.get(name))
    for its in found.values():
        its.close()
    return found


@torch.no_grad()
def looked_at(detector: Detector, activations: Activations) -> tuple[Tensor, Tensor]:
    """Scores and predicted classes `[N, H, W]` on the CPU."""
    shape = (len(activations), *activations.grid)
    predicted, score = detector.answer(activations)
    return score.view(shape).cpu(), predicted.view(shape).cpu()


def check_grid(activations: Activations, label: Tensor) -> None:
    """Raises where the network's grid is not the labels'."""
    if label.dim() != 3:
        raise ValueError("labels are one per image; give label maps [N, H, W]")
    if tuple(activations.grid) != tuple(label.shape[1:]):
        raise ValueError(
            f"the network labels {tuple(activations.grid)} pixels, the label maps have "
            f"{tuple(label.shape[1:])}; let the network enlarge its logits to the image's size"
        )


def some_pixels(label: Tensor, share: int, generator: torch.Generator) -> Tensor:
    """Positions, in the flattened batch, of some known and unknown pixels of each image."""
    kinds = (label == UNKNOWN).long().masked_fill(label < UNKNOWN, -1).flatten(1)
    size = kinds.shape[1]
    found = [i * size + some_of_each(row, share, generator) for i, row in enumerate(kinds)]
    return torch.cat(found)


def keep_strips(
    its: Seen,
    image: Tensor,
    label: Tensor,
    score: Tensor,
    predicted: Tensor,
    threshold: Threshold | None,
) -> None:
    """Pictures of the first images that hold enough unknown pixels."""
    for i in range(len(image)):
        share = float((label[i] == UNKNOWN).double().mean())
        if len(its.strips) >= PICTURED or share < LEAST_UNKNOWN:
            continue
        answer = predicted[i]
        if threshold is not None:
            flat = Scored(score[i].flatten(), label[i].flatten(), predicted[i].flatten())
            values = threshold.values
            cut = list(values) if len(values) > 1 else threshold.values[0]
            answer = flat.answers(cut).view_as(predicted[i])
        classes = its.metrics.classes
        its.strips.append(strip(image[i], answer, score[i], label[i], classes))
