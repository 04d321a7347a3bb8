"""Why a model answers as it does about one image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from openset.activations import Activations, concatenate
from openset.data import ImageSet
from openset.detectors import KNN, Detector, Fusion
from openset.detectors.by_layer import by_layer, splits
from openset.detectors.more_classes import MoreClasses
from openset.extractors.extract import stream
from openset.files import complete_file
from openset.life.pages import address_of, picture_of, write_page
from openset.model.open_set import OpenSet
from openset.model.predict import Answer, answers, opened, refuse_skipped
from openset.pictures import limits, overlay, score_picture
from openset.sampling import reservoir

KNOWN = 500
"""Held-out known images, at most, among which the part of a layer is ranked."""

NEAREST = 8
"""Training images that are shown."""

LARGE = 320
"""The longest side of a map on the page, in pixels."""


@dataclass(frozen=True)
class Part:
    """What one member of a fusion, or one layer, says of an image.

    Args:
        name: The member or the layer.
        surprise: The member's score, or the layer's nats.
        p_value: The share of held-out known images of which it says at least as much; None where
            none were at hand.
    """

    name: str
    surprise: float
    p_value: float | None


@dataclass(frozen=True)
class Neighbour:
    """A training image that is near in the features.

    Args:
        distance: How far, in 0…2.
        row: Its position among the rows that the detector holds.
        position: Its position among the training images; None where they were not at hand.
        path: Its file, or its place in its set.
    """

    distance: float
    row: int
    position: int | None = None
    path: str | None = None


@dataclass(frozen=True)
class Explanation:
    """An answer with what it is made of.

    Args:
        answer: The answer; None from a model that labels pixels.
        parts: Members of a fusion and layers, in their order; empty for other detectors.
        nearest: The nearest training images, of a detector that holds their features.
        image: The image as the network sees it, `[C, H, W]`.
        score: The score of each pixel `[H, W]`, of a model that labels pixels.
        label: The label of each pixel `[H, W]`.
    """

    answer: Answer | None
    parts: tuple[Part, ...]
    nearest: tuple[Neighbour, ...]
    image: Tensor
    score: Tensor | None = None
    label: Tensor | None = None

    def table(self) -> Table:
        """The answer and its parts."""
        found = Table()
        for head, right in (("", False), ("score", True), ("p-value", True)):
            found.add_column(head, justify="right" if right else "left")
        if self.answer is not None:
            name = f"{self.answer.label}, nearest {self.answer.nearest}"
            found.add_row(name, f"{self.answer.score:.4g}", _rare(self.answer.p_value))
        for part in self.parts:
            found.add_row(part.name, f"{part.surprise:.4g}", _rare(part.p_value))
        return found


def explain(
    model: OpenSet, image: Any, known: ImageSet | None = None, train: ImageSet | None = None
) -> Explanation:
    """Says why an image has its answer.

    Of a `Fusion`, how rare each member finds it; of `VMDLSb` and of `GeMOS` with Gaussian mixtures,
    what each layer adds to the score, given the layers before it; of `KNN`, the training images
    nearest to it; of a model that labels pixels, the map of scores.

    Args:
        model: A calibrated model.
        image: One picture in any form that `OpenSet.predict` takes.
        known: Held-out known images, of which at most `KNOWN` tell how rare a layer's part is.
        train: The images that the detector was fitted on, to say which are near.

    Raises:
        ValueError: If that is not one image.

    Example:
        >>> import openset
        >>> data = openset.data.load("digits", known_classes=range(6))
        >>> network = openset.networks.cnn(classes=6, channels=1)
        >>> objective = openset.objectives.CrossEntropy(network)
        >>> _ = openset.train(objective, data.train, epochs=4, batch_size=64)
        >>> model = openset.wrap(network, data.train, data.valid, "vmdls-b")
        >>> told = explain(model, data.unknown.images[0], known=data.valid)
        >>> [part.name for part in told.parts]
        ['stage1', 'stage2', 'stage3', 'penultimate']
        >>> abs(sum(part.surprise for part in told.parts) - told.answer.score) < 0.1
        True
    """
    found = opened(model, image)
    pictures = [picture for batch, _ in found for picture in batch]
    refuse_skipped(found)
    if len(pictures) != 1:
        raise ValueError(f"{len(pictures)} images given; give one to explain")
    seen = concatenate(stream(model.extractor, found))
    with torch.no_grad():
        if seen.grid:
            label, score = model.decide(replace(seen, labels=None))  # Those are positions.
            return Explanation(None, (), (), pictures[0].cpu(), score[0].cpu(), label[0].cpu())
        base = model.detector
        base = base.detector if isinstance(base, MoreClasses) else base
        parts = tuple(_parts(model, base, seen.beside(base), known))
        nearest = tuple(_nearest(base, seen, train)) if isinstance(base, KNN) else ()
    (answer,) = answers(model, found)
    return Explanation(answer, parts, nearest, pictures[0])


def _parts(
    model: OpenSet, detector: Detector, seen: Activations, known: ImageSet | None
) -> list[Part]:
    """What the members of a fusion and the layers of a detector say."""
    found: list[Part] = []
    for member in _members(detector):
        if isinstance(detector, Fusion):
            place = list(detector.detectors).index(member)
            rare = (-detector.surprise(seen)[0, place]).exp()
            found.append(Part(member.name, float(member.score(seen)), float(rare)))
        if splits(member):
            found += _layers(model, member, seen, known, inside=isinstance(detector, Fusion))
    return found


def _members(detector: Detector) -> list[Any]:
    return list(detector.detectors) if isinstance(detector, Fusion) else [detector]


def _layers(
    model: OpenSet, detector: Detector, seen: Activations, known: ImageSet | None, *, inside: bool
) -> list[Part]:
    """The nats of each layer, ranked among those of held-out known images."""
    usual: dict[str, list[Tensor]] = {}
    if known is not None:
        step = -(-len(known) // KNOWN)
        for batch in stream(model.extractor, known.subset(torch.arange(0, len(known), step))):
            for layer, nats in by_layer(detector, batch.beside(detector)).items():
                usual.setdefault(layer, []).append(nats)
    found = []
    for layer, nats in by_layer(detector, seen).items():
        rare = None
        if usual:
            others = torch.cat(usual[layer])
            rare = (1 + int((others >= nats).sum())) / (1 + len(others))
        name = f"{detector.name}: {layer}" if inside else layer
        found.append(Part(name, float(nats), rare))
    return found


def _nearest(detector: KNN, seen: Activations, train: ImageSet | None) -> list[Neighbour]:
    """The nearest rows, with their images if those are at hand."""
    x = torch.nn.functional.normalize(seen.stacked(detector.layers_read), dim=1)
    away = torch.cdist(x.to(detector.rows), detector.rows)[0]
    distances, rows = away.topk(min(NEAREST, len(away)), largest=False)
    if train is None:
        pairs = zip(distances.tolist(), rows.tolist(), strict=True)
        return [Neighbour(distance, row) for distance, row in pairs]
    places = _drawn(detector, train)
    found = []
    for distance, row in zip(distances.tolist(), rows.tolist(), strict=True):
        position = int(places[row])
        path = train.pixels.path(int(train.indices[position]))
        found.append(Neighbour(distance, row, position, path))
    return found


def _drawn(detector: KNN, train: ImageSet) -> Tensor:
    """The training image of each row that a fit has kept: its seeded sample, drawn again.

    Raises:
        ValueError: If these are not as many images as the fit has seen.
    """
    places = (train.labels >= 0).nonzero()
    (kept,), _ = reservoir(
        [(places.double(), torch.zeros(len(places), dtype=torch.long))],
        1,
        detector.max_rows,
        detector.seed,
    )
    if len(kept) != len(detector.rows):
        raise ValueError(
            f"the detector holds {len(detector.rows)} rows, and of these {len(train)} images it "
            f"would hold {len(kept)}; give those that it was fitted on"
        )
    return kept[:, 0].long()


def write_explanation(
    told: Explanation, path: Path, model: OpenSet, train: ImageSet | None = None
) -> None:
    """Writes a small page with the image, the answer and what it is made of."""
    if path.suffix != ".html":
        raise ValueError(f"cannot write {path.name}; end the name in .html")
    maps = []
    if told.score is not None and told.label is not None:
        low, high = limits(told.score)
        maps.append(address_of(score_picture(told.score, low, high), LARGE))
        classes = len(model.classes or ()) or 1 + int(told.label.max().clamp_min(0))
        maps.append(address_of(overlay(told.image, told.label, classes), LARGE))
    shown = [
        {
            "picture": picture_of(train[one.position][0])
            if train is not None and one.position is not None
            else None,
            "path": one.path or f"row {one.row}",
            "distance": f"{one.distance:.3g}",
        }
        for one in told.nearest
    ]
    parts = [(part.name, f"{part.surprise:.4g}", _rare(part.p_value)) for part in told.parts]
    facts = {
        "answer": told.answer, "parts": parts, "nearest": shown, "maps": maps,
        "image": picture_of(told.image),
        "rare": "" if told.answer is None else _rare(told.answer.p_value),
    }  # fmt: skip
    with complete_file(path) as partial:
        write_page("explain.html", partial, facts)


def _rare(p_value: float | None) -> str:
    return "" if p_value is None else f"{p_value:.3g}"
