"""Images in, one answer each out: label or unknown, nearest class, score, threshold, p-value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from openset.activations import Activations
from openset.data import Adapter, ImageSet
from openset.data.batch import check_images
from openset.data.loose import Loose, gathered
from openset.data.readable import Readable
from openset.detectors import Detector
from openset.extractors.extract import stream
from openset.scoring.false_discoveries import check_level, cut_at, q_values
from openset.scoring.held_out import HeldOut

COLUMNS = (
    "path", "label", "nearest", "probability", "score", "threshold", "margin", "p_value",
)  # fmt: skip
"""Columns that every table of answers has."""


@dataclass(frozen=True)
class Answer:
    """The answer of a model about one image.

    Args:
        label: The class's name, or "unknown" where the score is above the threshold.
        nearest: The name of the known class that fits best, also where the image is unknown.
        probability: The softmax probability of that class; None of one that was added to the model
            later, of which the network knows nothing.
        score: The detector's score; higher = more unknown.
        threshold: The threshold that applied.
        margin: Threshold − score: below 0 where the image is unknown.
        p_value: The share of held-out known images that look at least so strange; None if the
            model holds no held-out scores.
        path: The image's file, or its place in its set; None for pictures in memory.
        confidence: The figure that the detector's paper shows in the score's place, if it does.
        probabilities: Each known class's softmax probability, where asked for.
        q_value: The lowest level of false discoveries at which it is called unknown, where images
            are judged together.
    """

    label: str
    nearest: str
    probability: float | None
    score: float
    threshold: float
    margin: float
    p_value: float | None
    path: str | None = None
    confidence: float | None = None
    probabilities: Mapping[str, float] | None = field(default=None, hash=False)
    q_value: float | None = None

    def record(self) -> dict[str, Any]:
        """The answer as one row of a table, by the names of its columns."""
        record = {name: getattr(self, name) for name in COLUMNS}
        more = {"confidence": self.confidence, "q_value": self.q_value}
        record |= {name: value for name, value in more.items() if value is not None}
        return record | {f"p_{name}": share for name, share in (self.probabilities or {}).items()}


class Model(Protocol):
    """Interface of a model that can predict; `OpenSet`, which imports this file, has it."""

    adapter: Adapter | None
    detector: Detector
    held_out: HeldOut

    @property
    def extractor(self) -> nn.Module: ...

    def judge(
        self, activations: Activations, threshold: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def names(self, labels: Tensor | Iterable[int]) -> list[Any]: ...

    def with_accept(self, accept: float) -> Self: ...


Kind = TypeVar("Kind", bound=Model)


def predict(
    model: Model,
    images: Any,
    *,
    accept: float | None = None,
    threshold: float | None = None,
    fdr: float | None = None,
    storey: bool = False,
    probabilities: bool = False,
    batch_size: int = 256,
    workers: int | None = None,
) -> list[Answer]:
    """Answers for each image, in their order.

    Pictures pass the model's adapter. Tensors of the size that the model takes are its input as
    they stand, as for `model(images)`.

    Args:
        model: A model of whole images; calibrated, or else it accepts everything.
        images: A path, a folder, a glob, a PIL image, an image file's bytes, an array `[H, W(, C)]`
            or tensor `[C, H, W]` of uint8 or of floats in 0…1, a batch of either, an image set, or
            a list of any of these.
        accept: Another share of known images to accept, as `OpenSet.with_accept`.
        threshold: Another threshold; nothing is promised of it.
        fdr: In place of a threshold, the share of known images among those called unknown, at most
            on average; see `together`.
        storey: Whether `fdr` estimates how many images are known, which finds more unknown ones
            where there are many.
        probabilities: Whether to add the probability of each known class.
        batch_size: Images per pass.
        workers: Threads that decode; None for one a core.

    Raises:
        ValueError: For an image that cannot be read, for a model that labels pixels, and for a
            share that the model's held-out scores cannot give.
    """
    found = opened(model, images, batch_size, workers)
    model, values = with_threshold(model, accept, threshold, fdr, storey=storey)
    given = list(answers(model, found, values, probabilities=probabilities))
    if fdr is not None:
        given = together(model, given, fdr, storey=storey)
    refuse_skipped(found)
    return given


def opened(
    model: Model, images: Any, batch_size: int = 256, workers: int | None = None
) -> Readable | Inputs:
    """Batches of what the model takes, from whatever pictures are at hand; see `predict`.

    Raises:
        ValueError: For what is no picture, or a model that does not say what it takes.
    """
    if isinstance(images, ImageSet):
        return Readable(images, batch_size)
    items = gathered(images)
    shape = None if model.adapter is None else model.adapter.shape
    tensors = [x for x in items if isinstance(x, Tensor) and shape in (None, tuple(x.shape))]
    if len(tensors) == len(items):
        return Inputs(tensors, batch_size)
    if model.adapter is None:
        raise ValueError(
            "this model does not say how an image file becomes its input; "
            "save it with OpenSet(…, adapter=Adapter(size, channels))"
        )
    return Readable(ImageSet(Loose(items, workers), None, model.adapter), batch_size)


def refuse_skipped(images: Readable | Inputs) -> None:
    """Raises for the first image of the last pass that could not be read."""
    if isinstance(images, Readable) and images.skipped:
        raise ValueError(images.skipped[0])


class Inputs:
    """Batches of (image, position) of tensors that a network takes as they are."""

    def __init__(self, tensors: Sequence[Tensor], batch_size: int):
        if len({x.shape for x in tensors}) > 1:
            raise ValueError(
                "tensors differ in shape and this model has no adapter; give [C, H, W] of one size"
            )
        self.tensors, self.batch_size = tensors, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.tensors), self.batch_size):
            image = torch.stack(list(self.tensors[start : start + self.batch_size]))
            image = image / 255 if image.dtype == torch.uint8 else image
            yield check_images(image), torch.arange(start, start + len(image))


def with_threshold(
    model: Kind,
    accept: float | None,
    threshold: float | None,
    fdr: float | None = None,
    *,
    storey: bool = False,
) -> tuple[Kind, Tensor | None]:
    """The model at another share to accept, and another threshold, where either is given."""
    given = {"accept": accept, "threshold": threshold, "fdr": fdr}
    if len(named := [name for name, value in given.items() if value is not None]) > 1:
        raise ValueError(f"{' and '.join(named)} each set the threshold; give one of them")
    if storey and fdr is None:
        raise ValueError("storey estimates how many images are known for fdr; give fdr too")
    if fdr is not None and not model.held_out.fitted:
        raise ValueError("this model holds no held-out scores, so no p-values; fit it again")
    if threshold is not None:
        return model, torch.tensor([threshold], dtype=torch.float64)
    return (model if accept is None else model.with_accept(accept)), None


def answers(
    model: Model,
    images: Readable | Inputs,
    values: Tensor | None = None,
    *,
    probabilities: bool = False,
) -> Iterator[Answer]:
    """One answer an image; those that cannot be read have none, and `images.skipped` says why.

    Args:
        model: A model of whole images.
        images: From `opened`.
        values: Another threshold `[1]` than the model's.
        probabilities: Whether to add the probability of each known class.
    """
    for seen in stream(model.extractor, images):
        if seen.grid:
            raise ValueError(
                "this model labels pixels, so an image has no single answer; for maps: "
                "openset predict MODEL IMAGES --out FOLDER, or openset.model.maps.write_maps"
            )
        assert seen.labels is not None
        paths = [path_of(images, position) for position in seen.labels.tolist()]
        yield from answered(model, seen, paths, values, probabilities=probabilities)


def together(
    model: Model, answers: Sequence[Answer], fdr: float, *, storey: bool = False
) -> list[Answer]:
    """The same answers with "unknown" where all p-values together allow it, by `q_values`.

    The threshold becomes the score above which that is so, infinite if no image is unknown.

    Args:
        model: The model that gave the answers.
        answers: Answers about all images that are judged together.
        fdr: The share of known images among those called unknown, at most on average.
        storey: As for `q_values`.
    """
    check_level(fdr)
    p_values = torch.tensor([answer.p_value for answer in answers], dtype=torch.double)
    q = q_values(p_values, storey=storey)
    values = model.held_out.values_at(cut_at(p_values, q, fdr)).tolist()
    group = {name: c for c, name in enumerate(model.names(range(len(values))))}
    found = []
    for answer, own in zip(answers, q.tolist(), strict=True):
        threshold = values[group[answer.nearest]] if len(values) > 1 else values[0]
        label = "unknown" if own <= fdr else answer.nearest
        changes = {"threshold": threshold, "margin": threshold - answer.score, "q_value": own}
        found.append(replace(answer, label=label, **changes))
    return found


def path_of(images: Readable | Inputs, position: int) -> str | None:
    """The file of an image, or its place in its set; None for a picture in memory."""
    if isinstance(images, Inputs):
        return None
    found, row = images.images, int(images.images.indices[position])
    if isinstance(found.pixels, Loose) and not found.pixels.named(row):
        return None
    return found.pixels.path(row)


@torch.no_grad()
def answered(
    model: Model,
    seen: Activations,
    paths: Sequence[str | None],
    values: Tensor | None,
    *,
    probabilities: bool,
) -> Iterator[Answer]:
    """The answers about one batch of activations."""
    nearest, score, thresholds = (x.cpu() for x in model.judge(seen, values))
    shares = seen.logits.float().softmax(1)
    of_network = nearest < shares.shape[1]
    own = shares.gather(1, torch.where(of_network, nearest, 0)[:, None]).squeeze(1).tolist()
    own = [share if its else None for share, its in zip(own, of_network.tolist(), strict=True)]
    none = [None] * len(paths)
    rare = model.held_out.p_values(score, nearest).tolist() if model.held_out.fitted else none
    shown = model.detector.confidence(score)
    told = zip(
        model.names(nearest), own, score.tolist(), thresholds.tolist(),
        rare, paths, none if shown is None else shown.tolist(),
        shares.tolist() if probabilities else none, strict=True,
    )  # fmt: skip
    names = model.names(range(shares.shape[1])) if probabilities else []
    for name, share, value, threshold, p_value, path, confidence, each in told:
        yield Answer(
            label=name if value <= threshold else "unknown",
            nearest=name,
            probability=share,
            score=value,
            threshold=threshold,
            margin=threshold - value,
            p_value=p_value,
            path=path,
            confidence=confidence,
            probabilities=None if each is None else dict(zip(names, each, strict=True)),
        )
