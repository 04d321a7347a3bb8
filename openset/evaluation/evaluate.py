"""All detectors on known and unknown images, with nothing computed twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from openset.data.loaders import per_pixel
from openset.detectors import Detector
from openset.evaluation.metrics import METRICS, STANDARD
from openset.evaluation.pixel_metrics import PIXEL
from openset.evaluation.pixel_scores import same_images, see
from openset.evaluation.results import Results
from openset.evaluation.rows import Case, Row
from openset.extractors.tap import Tap
from openset.pictures import stack_of
from openset.scoring.answers import Detectors, by_name, score
from openset.scoring.threshold import Threshold


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
    with the metrics of `openset.evaluation.pixel_metrics.PIXEL`.

    Args:
        tap: Reads the network; its layers must cover those of the detectors.
        detectors: Fitted detectors, by name or in a list.
        known: Test images of the known classes, with labels.
        unknown: Images of no known class, or several such sets by name.
        thresholds: By detector, for the metrics and pictures that need one; without it the
            threshold-free metrics are measured.
        metrics: Names of `openset.evaluation.metrics.METRICS`.
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
        from openset.evaluation.evaluate import evaluate_pixels  # Here, because it draws pictures.

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


def name_of(images: Any, otherwise: str) -> str:
    """The name of a data set, if it has one."""
    return str(getattr(images, "name", otherwise))


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
    """As `openset.evaluation.evaluate.evaluate`, for sets whose labels are maps.

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


def pictured(figures: Mapping[str, bytes], detector: str) -> dict[str, bytes]:
    """Of pictures by title, those of one detector."""
    return {title: png for title, png in figures.items() if title.startswith(f"{detector} · ")}
