"""All detectors on label maps: pixels pooled and per image, and the pictures of a few images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from openset.activations import UNKNOWN, Activations
from openset.data import ImageSet
from openset.detectors import Detector
from openset.metrics import METRICS, STANDARD, Scored
from openset.pixel_metrics import PIXEL, PixelMetrics
from openset.pixel_pictures import stack_of, strip
from openset.pixel_rows import images_at_once, some_of_each
from openset.results import Results
from openset.table import Case, Row
from openset.tap import Tap
from openset.threshold import Threshold
from openset.views import Views

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


def evaluate_pixels(
    tap: Tap,
    detectors: Mapping[str, Detector],
    known: Any,
    sets: Mapping[str, Any],
    run: Case,
    thresholds: Mapping[str, Threshold],
    metrics: Sequence[str] = STANDARD,
    *,
    classes: Sequence[str] | None = None,
    paper: Mapping[str, Mapping[tuple[str, str], float]] | None = None,
) -> Results:
    """As `openset.evaluate.evaluate`, for sets whose labels are maps.

    Each unknown set is measured on its own pixels, known and unknown; mIoU is that of `known`.
    Scores of at most `SHOWN` pixels of a kind and set are kept for the report.
    """
    wanted = PIXEL if set(STANDARD) <= set(metrics) else [m for m in metrics if m in PIXEL]
    seen = see(tap, detectors, known, thresholds)
    others = {
        name: seen if same_images(known, images) else see(tap, detectors, images, thresholds)
        for name, images in sets.items()
    }
    results = Results()
    for name in detectors:
        case = replace(run, detector=name, tuned_on=" + ".join(detectors[name].tuned_on))
        figures = (paper or {}).get(name, {})
        found = {("", m): v for m, v in seen[name].measured.items() if alone(m)}
        for other, its in others.items():
            if "auroc" not in its[name].measured:
                raise ValueError(f"{other} has no pixels of both kinds, known and unknown")
            found |= {(other, m): v for m, v in its[name].measured.items() if not alone(m)}
        for (other, metric), value in found.items():
            if metric in wanted:
                row = Row(**vars(case), unknown=other, metric=metric, value=value)
                results.rows.append(replace(row, paper=figures.get((other, metric))))
        results.scored[case] = {run.known: seen[name].sample(unknown=False)}
        results.scored[case] |= {k: its[name].sample(unknown=True) for k, its in others.items()}
        if name in thresholds:
            results.thresholds[case] = thresholds[name].record()
        if classes is not None:
            results.classes[case.run] = list(classes)
        for other, its in others.items():
            if its[name].strips:
                title = picture_title(case, other)
                results.figures[title] = stack_of(its[name].strips)
    return results


def picture_title(case: Case, unknown: str) -> str:
    """What the report calls the pictures of a detector on a set; it begins with the detector."""
    return f"{case.detector} · {case.objective} · {unknown}: image, answer, score, truth"


def alone(metric: str) -> bool:
    """Whether a metric needs no unknown set."""
    return not METRICS[metric].needs_unknown


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


def pictured(figures: Mapping[str, bytes], detector: str) -> dict[str, bytes]:
    """Of pictures by title, those of one detector."""
    return {title: png for title, png in figures.items() if title.startswith(f"{detector} · ")}
