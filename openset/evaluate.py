"""All detectors on known and unknown images, with one pass for each view of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from openset.activations import UNKNOWN, Activations
from openset.detectors import Detector
from openset.metrics import STANDARD, Scored
from openset.pixel_rows import per_pixel
from openset.results import Results
from openset.store import stream
from openset.table import Case
from openset.tap import Tap
from openset.threshold import Threshold

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
    scored: dict[str, Scored] = {}
    for view, members in views(tap, named):
        seen = stream(view, images, batch_size)
        scored |= score_activations({name: named[name] for name in members}, seen)
    return {name: scored[name] for name in named}


def score_activations(
    detectors: Mapping[str, Detector], batches: Iterable[Activations]
) -> dict[str, Scored]:
    """As `score`, for activations of the view that these detectors share."""
    parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in detectors}
    for batch in batches:
        rows = batch.rows()
        labels = rows.labels if rows.labels is not None else torch.full((len(rows),), UNKNOWN)
        with torch.no_grad():
            for name, detector in detectors.items():
                predicted, score = detector.answer(batch)
                parts[name].append((score, labels, predicted))
    if not all(parts.values()):
        raise ValueError("no images: the data set or the loader gave no batch")
    return {
        name: Scored(*(torch.cat(column) for column in zip(*found, strict=True)))
        for name, found in parts.items()
    }


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


def views(tap: Tap, detectors: Mapping[str, Detector]) -> list[tuple[nn.Module, list[str]]]:
    """The extractors that the detectors want, each with the names of those that share it.

    A view that passes the tap's activations on with something added says by its `key` which others
    add the same.
    """
    groups: dict[Hashable, tuple[nn.Module, list[str]]] = {}
    for name, detector in detectors.items():
        view = detector.view(tap)
        groups.setdefault(getattr(view, "key", view), (view, []))[1].append(name)
    # A view that only adds to the tap's activations serves those who want these alone, too.
    richer = [key for key, (view, _) in groups.items() if hasattr(view, "key")]
    if richer and tap in groups:
        groups[richer[0]][1].extend(groups.pop(tap)[1])
    return list(groups.values())


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
