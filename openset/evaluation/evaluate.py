"""From models to results: all detectors on known and unknown data, with nothing computed twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from openset.data import ImageSet
from openset.data.loaders import images_at_once, per_pixel
from openset.detectors import Detector
from openset.evaluation.examples import Examples
from openset.evaluation.pixels import Pixels, PixelSample
from openset.evaluation.results import Results
from openset.evaluation.rows import Case
from openset.evaluation.seen import Images, Seen
from openset.extractors.tap import Tap
from openset.processes import here
from openset.scoring.answers import Answer, by_batch
from openset.scoring.held_out import HeldOut
from openset.scoring.scored import Scored
from openset.scoring.threshold import Threshold, ThresholdRecord
from openset.scoring.views import tap_for

Detectors = Sequence[Detector] | Mapping[str, Detector]


class Model(Protocol):
    """Interface of a model that can be measured; an `OpenSet` has it."""

    @property
    def tap(self) -> Tap:
        """The tap that reads the network."""
        ...

    @property
    def detector(self) -> Detector:
        """The fitted detector."""
        ...

    @property
    def threshold(self) -> Threshold | None:
        """The threshold for metrics that need one."""
        ...

    @property
    def classes(self) -> Sequence[str] | None:
        """Names of the known classes."""
        ...

    @property
    def held_out(self) -> HeldOut:
        """The held-out known scores, for p-values."""
        ...


@dataclass
class Candidate:
    """One detector to measure, with the parts of its model that figures and report show."""

    tap: Tap
    detector: Detector
    threshold: ThresholdRecord | None
    classes: Sequence[str] | None
    held_out: HeldOut | None = None

    def add_p_values(self, scored: Scored) -> None:
        """Adds the p-values of images, if the model keeps held-out scores."""
        if self.held_out is not None and self.held_out.fitted and scored.score.dim() == 1:
            scored.p_value = self.held_out.p_values(scored.score, scored.predicted)


def evaluate(
    models: Tap | Model | Mapping[str, Model],
    detectors: Detectors | None = None,
    known: Any = None,
    unknown: Any = None,
    *,
    thresholds: Mapping[str, Threshold] | None = None,
    metrics: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    run: Case | None = None,
    paper: Mapping[str, Mapping[tuple[str, str], float]] | None = None,
    batch_size: int = 256,
    training: ImageSet | None = None,
    held_out: ImageSet | None = None,
) -> Results:
    """Measures how well each detector tells known test data from unknown.

    Give a tap and the detectors that read it, `evaluate(tap, detectors, known=…, unknown=…)`, or
    finished models, `evaluate({"gemos": model}, known=…, unknown=…)`. Models of one network share
    its passes. The network runs where it lies; move it, or the models, to another device before.

    Where pixels are labelled, each set is measured by itself, on its own known and unknown pixels,
    with the metrics of `openset.evaluation.metrics.PIXEL`.

    Args:
        models: A tap, whose layers must cover those of the detectors; or models by name, or one.
        detectors: With a tap, fitted detectors, by name or in a list.
        known: Test images of the known classes, with labels.
        unknown: Images of no known class, or several such sets by name.
        thresholds: By name, for the metrics and pictures that need one, instead of the models' own;
            without any the threshold-free metrics are measured.
        metrics: Names of `openset.evaluation.metrics.METRICS`; None measures all that are usual.
        classes: Names of the known classes, for the report, instead of the models' own.
        run: What the results say of the run: protocol, seed, network, objective.
        paper: By detector, published figures by (unknown set, metric).
        batch_size: Images per pass.
        training: The images that the network was trained on; with each image of the report stand
            then those of them that look most like it to the network.
        held_out: Held-out known images; the report then says which layer made a score, of detectors
            whose score is a sum over layers.

    Returns:
        One long table, with the scores and the most wrongly judged images.

    Raises:
        ValueError: If data are missing, or some are labelled by pixels and others by images.
    """
    if known is None or unknown is None:
        raise ValueError("name the data to measure on: evaluate(models, known=…, unknown=…)")
    sets = dict(unknown) if isinstance(unknown, Mapping) else {name_of(unknown, "unknown"): unknown}
    check_one_kind(known, sets)
    run = replace(run or Case(), known=name_of(known, "known"))
    candidates = candidates_of(models, detectors, thresholds or {}, classes)
    seen = look(candidates, run.known, known, batch_size)
    others = {
        name: seen if same_set(known, images) else look(candidates, name, images, batch_size)
        for name, images in sets.items()
    }
    results = Results()
    for name, each in candidates.items():
        results.add(
            replace(run, detector=name, tuned_on=" + ".join(each.detector.tuned_on)),
            seen[name],
            {other: its[name] for other, its in others.items()},
            each.threshold,
            held_out=each.held_out,
            classes=each.classes,
            metrics=metrics,
            paper=(paper or {}).get(name),
        )
    if not per_pixel(known):
        names = next((each.classes for each in candidates.values()), None)
        look_again = Examples(list(shared_taps(candidates)), names, training, held_out)
        look_again.keep(results, run, {run.known: known, **sets})
    return results


def candidates_of(
    models: Tap | Model | Mapping[str, Model],
    detectors: Detectors | None,
    thresholds: Mapping[str, Threshold],
    classes: Sequence[str] | None,
) -> dict[str, Candidate]:
    """Collects the detectors to measure by name, in whichever form given; see `evaluate`."""
    if isinstance(models, Tap):
        named = by_name(detectors or ())
        given = {name: (models, detector, None, None, None) for name, detector in named.items()}
    elif detectors is not None:
        raise ValueError("models bring their detectors; give the data as known=…, unknown=…")
    else:
        named = models if isinstance(models, Mapping) else {models.detector.name: models}
        given = {
            name: (model.tap, model.detector, model.threshold, model.classes, model.held_out)
            for name, model in named.items()
        }
    found = {}
    for name, (tap, detector, own, names, held_out) in given.items():
        threshold = thresholds.get(name, own)
        record = None if threshold is None else threshold.record()
        found[name] = Candidate(tap, detector, record, classes or names, held_out)
    return found


def by_name(detectors: Detectors) -> dict[str, Detector]:
    """Names detectors; those of one kind are told apart by their settings."""
    if isinstance(detectors, Mapping):
        return dict(detectors)
    kinds = [detector.name for detector in detectors]
    named = {d.name if kinds.count(d.name) == 1 else repr(d): d for d in detectors}
    if len(named) < len(detectors):
        raise ValueError("two detectors are the same; give each a name: evaluate(tap, {name: …})")
    return named


def look(
    candidates: Mapping[str, Candidate], name: str, images: Any, batch_size: int
) -> dict[str, Seen]:
    """Shows one data set to all detectors, and returns the collected answers of each."""
    seen: dict[str, Seen] = {}
    if per_pixel(images):
        sample, batch_size = PixelSample.of(images), images_at_once(images, batch_size)
        seen |= {n: Pixels(name, sample) for n in candidates}
    else:
        seen |= {n: Images() for n in candidates}
    for answer in asked(candidates, images, batch_size):
        seen[answer.detector].add(answer)
    for each in seen.values():
        each.close()
    return seen


def asked(candidates: Mapping[str, Candidate], images: Any, batch_size: int) -> Iterator[Answer]:
    """The answers of all detectors about all batches; several processes share the batches out."""
    group, dense = here(), per_pixel(images)

    def told(answer: Answer) -> Answer:
        candidates[answer.detector].add_p_values(answer.scored)
        # Of images that no one draws, other processes need not hear.
        return answer if dense else answer._replace(image=answer.image[:0].clone())

    for tap, detectors in shared_taps(candidates):
        own = by_batch(tap, detectors, images, batch_size, group.owns)
        if group.count == 1:
            yield from (told(answer) for batch in own for answer in batch)
        else:
            for batch in group.in_order([told(answer) for answer in batch] for batch in own):
                yield from batch


def shared_taps(
    candidates: Mapping[str, Candidate],
) -> Iterator[tuple[Tap, dict[str, Detector]]]:
    """One tap for each network, with the detectors that read it."""
    groups: dict[tuple[nn.Module, str | None], dict[str, Candidate]] = {}
    for name, each in candidates.items():
        groups.setdefault((each.tap.network, each.tap.head), {})[name] = each
    for (network, head), group in groups.items():
        detectors = {name: each.detector for name, each in group.items()}
        first, *others = (each.tap for each in group.values())
        one = all(tap is first for tap in others)
        yield first if one else tap_for(network, detectors.values(), head=head), detectors


def check_one_kind(known: Any, unknown: Mapping[str, Any]) -> None:
    """Raises a ValueError where some data label pixels and others whole images."""
    kinds = ("whole images", "pixels")
    expected = per_pixel(known)
    for name, images in unknown.items():
        if per_pixel(images) != expected:
            raise ValueError(
                f"{name} labels {kinds[not expected]} and the known data {kinds[expected]}; "
                "name images of one kind"
            )


def same_set(one: Any, other: Any) -> bool:
    """Whether two sets are the same images with the same labels, whatever their names."""
    if not isinstance(one, ImageSet) or not isinstance(other, ImageSet):
        return one is other
    return (
        one.pixels is other.pixels
        and torch.equal(one.indices, other.indices)
        and torch.equal(one.values, other.values)
    )


def name_of(images: Any, otherwise: str) -> str:
    """The name of a data set, if it has one."""
    return str(getattr(images, "name", otherwise))
