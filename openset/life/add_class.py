"""One more class for a finished model, from a handful of images and without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openset.activations import Activations, concatenate
from openset.detectors.more_classes import MoreClasses, kind_of
from openset.extractors.extract import stream
from openset.model.open_set import OpenSet, are_activations, plain
from openset.model.predict import opened, refuse_skipped
from openset.scoring.answers import ask
from openset.scoring.scored import Scored, joined
from openset.scoring.threshold import ROUNDING, Threshold, known_groups

LEAST = 3
"""Images that a class needs at least."""

FOLDS = 10
"""Parts of the new images; each is judged by what is learned from the others."""

TABLES = ("knots", "at_least", "above", "sizes")
"""Tensors of `HeldOut`, which an added class keeps as they were before it."""


@dataclass(frozen=True)
class Addition:
    """A model with one more class, and what the addition has changed.

    Args:
        model: The new model; the one before is unchanged.
        images: Images that the class was learned from.
        accepted: Those of them that are called the class when it is learned from the others.
        moved: Held-out images of the other classes whose label it has taken; None where none were
            at hand.
        known: Held-out images of the other classes that were at hand.
    """

    model: OpenSet
    images: int
    accepted: int
    moved: int | None
    known: int

    def said(self) -> list[str]:
        """What has changed, and what is promised, in lines."""
        model = self.model
        assert model.classes is not None
        assert model.threshold is not None
        name = model.classes[-1]
        moved = (
            "How many images of the other classes it takes is not known, as no held-out ones were "
            "at hand."
            if self.moved is None
            else f"It takes {self.moved} of {self.known} held-out images of the other classes."
        )
        return [
            f"{name}, learned from {self.images} images: of these {self.accepted} are called "
            f"{name} when learned from the others.",
            moved,
            model.threshold.guarantee(),
            f"The images of {name} are {self.images} of those held out: of {name} alone nothing is "
            "promised.",
        ]


def add_class(model: OpenSet, name: str, images: Any, held_out: Any = None) -> Addition:
    """Lets a model know one more class, and sets its threshold again.

    Network and detector stay; an image keeps label and score unless the new class finds it less
    strange. The surprise under the new class is put on the detector's scale by the median of its
    images, each judged by what is learned from the others. The threshold accepts the same share as
    before, of held-out images of all classes: those of the new class are its images so judged.

    Args:
        model: A calibrated model with a `Mahalanobis`, `KNN`, `VMDLSb` or `GeMOS` detector.
        name: The class's name.
        images: Pictures in any form that `OpenSet.predict` takes, `LEAST` or more; 20 are better.
        held_out: Held-out known images with labels, as those that set the threshold, or, for a
            detector that looks only once, activations of them; None takes the scores that the
            model keeps, which are no lower than what they would be now.

    Raises:
        ValueError: For a name that is taken, too few images, or a detector that cannot.

    Example:
        >>> import openset
        >>> data = openset.data.load("digits", known_classes=range(6))
        >>> network = openset.networks.cnn(classes=6, channels=1)
        >>> objective = openset.objectives.CrossEntropy(network)
        >>> _ = openset.train(objective, data.train, epochs=4, batch_size=64)
        >>> known = {"train": data.train, "held_out": data.valid, "classes": data.classes}
        >>> model = openset.wrap(network, **known, detector="mahalanobis")
        >>> add_class(model, "seven", data.unknown.images[:20], data.valid).model.classes
        ['0', '1', '2', '3', '4', '5', 'seven']
    """
    classes, detector = _check(model, name)
    found = opened(model, images)
    seen = concatenate(stream(model.extractor, found))
    refuse_skipped(found)
    seen = seen.beside(detector)
    if seen.grid:
        raise ValueError("this model labels pixels; a class is added to models of whole images")
    if len(seen) < LEAST:
        raise ValueError(f"{len(seen)} images of {name}; give at least {LEAST}, better 20")
    with torch.no_grad():
        changed, left_out = learned(model, detector, seen)
        known = None if held_out is None else _asked(model, changed, held_out)
        of_class = _as_class(detector, seen, left_out, len(classes))
    about = {**model.about, f"Added {name}": f"from {len(seen)} images"}
    names = [*classes, name]
    added = OpenSet(model.tap, changed, None, names, model.adapter, model.name, about)
    _calibrate(added, model, known, of_class)
    return Addition(
        added.train(model.training),
        len(seen),
        int(((of_class.predicted == len(classes)) & ~_rejected(added, of_class)).sum()),
        None if known is None else int((known.predicted == len(classes)).sum()),
        0 if known is None else len(known),
    )


def undo_class(model: OpenSet) -> OpenSet:
    """The model without the class that was added last, as it was before.

    Raises:
        ValueError: If no class was added.
    """
    if not isinstance(model.detector, MoreClasses) or not model.detector.added:
        raise ValueError("no class was added to this model, so there is nothing to undo")
    assert model.classes is not None
    last = model.detector.classes[-1]
    try:
        state = {name: last.get_buffer(f"before_{name}").cpu() for name in TABLES}
        state["knots"] = state["knots"].view(torch.double)
        told = json.loads(bytes(last.get_buffer("before_threshold").tolist()))
        threshold = Threshold.from_settings(told)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"what the model was before is damaged: {error}") from error
    *names, name = model.classes
    about = {key: text for key, text in model.about.items() if key != f"Added {name}"}
    detector = model.detector.without_last()
    found = OpenSet(model.tap, detector, threshold, names, model.adapter, model.name, about)
    found.train(model.training)
    found.held_out.load_state_dict(state)
    return found


def learned(model: OpenSet, detector: MoreClasses, seen: Activations) -> tuple[MoreClasses, Tensor]:
    """The detector with the new class, and each image's surprise when learned from the others."""
    base, x = detector.detector, seen.stacked(detector.layers_read)
    fold = torch.arange(len(x)) % min(FOLDS, len(x))
    left_out = torch.empty_like(x[:, 0])
    for part in fold.unique():
        others = kind_of(base)().fit(base, x[fold != part])
        left_out[fold == part] = others.surprise(base, x[fold == part])
    usual = torch.tensor(model.held_out.threshold(0.5).values).median()
    shift = float(usual - left_out.double().median())
    changed = detector.with_class(x, shift)
    assert model.threshold is not None
    before = {f"before_{name}": getattr(model.held_out, name) for name in TABLES}
    before["before_knots"] = before["before_knots"].view(torch.long)  # Which no cast rounds.
    told = json.dumps(model.threshold.settings()).encode()
    threshold = torch.tensor(list(told), dtype=torch.uint8)
    changed.classes[-1].keep(before_threshold=threshold, **before)  # pyright: ignore[reportCallIssue]
    return changed, left_out + shift


def _check(model: OpenSet, name: str) -> tuple[list[str], MoreClasses]:
    """The classes so far and the detector, if the model can learn one more of that name."""
    if model.threshold is None or not model.held_out.fitted:
        raise ValueError("this model keeps no held-out scores; calibrate it, or fit it again")
    if model.classes is None:
        raise ValueError("this model does not name its classes; set model.classes first")
    if not (name.strip() and name.isprintable()):
        raise ValueError(f"the name is {name!r}; give the new class one that can be read")
    if name in (*model.classes, "unknown"):
        raise ValueError(f"the name {name!r} is taken; give the new class another")
    detector = model.detector
    return list(model.classes), (
        detector if isinstance(detector, MoreClasses) else MoreClasses(detector)
    )


def _asked(model: OpenSet, changed: MoreClasses, held_out: Any) -> Scored:
    """Held-out known images, as the changed detector scores them."""
    given = are_activations(held_out)
    seen = plain(model, held_out) if given else stream(model.extractor, held_out)
    return joined([ask(changed, batch) for batch in seen])


def _as_class(detector: MoreClasses, seen: Activations, left_out: Tensor, place: int) -> Scored:
    """The new images, each as if the class had been learned from the others."""
    predicted, score = detector.answer(seen)
    own = left_out < score
    score, predicted = torch.where(own, left_out, score), torch.where(own, place, predicted)
    return Scored(score, torch.full_like(predicted, place), predicted).map(Tensor.cpu)


def _calibrate(found: OpenSet, before: OpenSet, known: Scored | None, of_class: Scored) -> None:
    """Sets threshold and held-out scores from those of all classes together."""
    assert before.threshold is not None
    per_class = len(before.held_out.sizes) > 1
    classes = len(found.classes or ()) if per_class else None
    fresh = known_groups(of_class, classes)
    old = before.held_out.scores() if known is None else known_groups(known, classes)
    groups = [torch.cat(pair).sort().values for pair in _paired(old, fresh)]
    found.held_out.fit(groups)
    threshold = Threshold.of_groups(groups, before.threshold.accept, ROUNDING)
    found.set_threshold(threshold.doubted(before.threshold.doubt))


def _paired(old: Sequence[Tensor], fresh: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Scores of each group; the last group may be new."""
    more = [torch.empty(0, dtype=torch.double)] * (len(fresh) - len(old))
    return list(zip([*old, *more], fresh, strict=True))


def _rejected(model: OpenSet, scored: Scored) -> Tensor:
    assert model.threshold is not None
    values = model.threshold.tensor()
    return scored.rejected(values if len(values) > 1 else values[0])
