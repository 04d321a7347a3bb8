"""All detectors on known and unknown images, with nothing computed twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from openset.activations import UNKNOWN, Activations
from openset.detectors import Detector
from openset.metrics import STANDARD, Scored
from openset.pixel_rows import per_pixel
from openset.results import Results
from openset.table import Case
from openset.tap import Tap
from openset.threshold import Threshold
from openset.views import Views

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


def evaluate(
    tap: Tap,
    detectors: Detectors,
    known: Any,
    unknown: Any,
    *,
    thresholds: Mapping[str, Threshold] | None = None,
    metrics: Sequence[str] = STANDARD,
    classes: Sequence[str] | None = None,
    run: Case | None = None,
    paper: Mapping[str, Mapping[tuple[str, str], float]] | None = None,
    batch_size: int = 256,
) -> Results:
    """Measures how well each detector tells known test images from unknown ones.

    Where pixels are labelled, each set is measured by itself, on its own known and unknown pixels,
    with the metrics of `openset.pixel_metrics.PIXEL`.

    Args:
        tap: Reads the network; its layers must cover those of the detectors.
        detectors: Fitted detectors, by name or in a list.
        known: Test images of the known classes, with labels.
        unknown: Images of no known class, or several such sets by name.
        thresholds: By detector, for the metrics and pictures that need one; without it the
            threshold-free metrics are measured.
        metrics: Names of `openset.metrics.METRICS`.
        classes: Names of the known classes, for the report.
        run: What the results say of the run: protocol, seed, network, objective.
        paper: By detector, published figures by (unknown set, metric).
        batch_size: Images per pass.

    Returns:
        One long table, with all scores and the most wrongly judged images.
    """
    named = by_name(detectors)
    thresholds, paper = thresholds or {}, paper or {}
    known_name = name_of(known, "known")
    sets = dict(unknown) if isinstance(unknown, Mapping) else {name_of(unknown, "unknown"): unknown}
    if per_pixel(known):
        from openset.evaluate_pixels import evaluate_pixels  # Here, because it draws pictures.

        run = replace(run or Case(), known=known_name)
        return evaluate_pixels(
            tap, named, known, sets, run, thresholds, metrics, classes=classes, paper=paper
        )
    for name, images in sets.items():
        if per_pixel(images):
            raise ValueError(
                f"{name} labels pixels and the known data whole images; name images of one kind"
            )
    seen = score(tap, named, known, batch_size=batch_size)
    others = {name: score(tap, named, s, batch_size=batch_size) for name, s in sets.items()}
    results = Results()
    run = replace(run or Case(), known=known_name)
    for name in named:
        results.add(
            replace(run, detector=name, tuned_on=" + ".join(named[name].tuned_on)),
            seen[name],
            {other: scored[name] for other, scored in others.items()},
            thresholds[name].record() if name in thresholds else None,
            classes=classes,
            metrics=metrics,
            paper=paper.get(name),
        )
    keep_examples(results, run, {known_name: known, **sets})
    return results


def keep_examples(results: Results, run: Case, sources: Mapping[str, Any]) -> None:
    """Keeps the images that the report shows, from sources that can be read by index."""
    for data, indices in results.wanted_images(run).items():
        source = sources[data]
        if isinstance(source, torch.utils.data.Dataset):
            items: Any = source
            results.keep_images(run, data, {i: torch.as_tensor(items[i][0]) for i in indices})


def by_name(detectors: Detectors) -> dict[str, Detector]:
    """Detectors by name; those of one kind are told apart by their settings."""
    if isinstance(detectors, Mapping):
        return dict(detectors)
    kinds = [detector.name for detector in detectors]
    named = {d.name if kinds.count(d.name) == 1 else repr(d): d for d in detectors}
    if len(named) < len(detectors):
        raise ValueError("two detectors are the same; give each a name: evaluate(tap, {name: …})")
    return named


def name_of(images: Any, otherwise: str) -> str:
    """The name of a data set, if it has one."""
    return str(getattr(images, "name", otherwise))
