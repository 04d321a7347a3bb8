"""Answers of every detector about images, from one pass for each view."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openset.activations import UNKNOWN, Activations
from openset.detectors import Detector
from openset.extractors.tap import Tap
from openset.scoring.scored import Scored
from openset.scoring.views import Views


class Answer(NamedTuple):
    """The answer of one detector about one batch of images.

    Args:
        detector: The detector's name.
        image: `[N, C, H, W]`.
        scored: Scores, labels and predicted classes `[N, *grid]`.
        classes: The number of classes that the network knows.
    """

    detector: str
    image: Tensor
    scored: Scored
    classes: int


def answers(
    tap: Tap, detectors: Mapping[str, Detector], source: Any, batch_size: int = 256
) -> Iterator[Answer]:
    """Asks all detectors, one batch of images after another, with nothing computed twice.

    Activations live no longer than their batch, so memory does not grow with the data.

    Args:
        tap: Reads the network; its layers must cover those of the detectors.
        detectors: Fitted detectors by name.
        source: An image set, a data set of (image, label), a loader or a list of batches.
        batch_size: Images per pass.

    Raises:
        ValueError: If images or logits hold NaN, or if labels have another grid than the logits.
    """
    for batch in by_batch(tap, detectors, source, batch_size):
        yield from batch


def by_batch(
    tap: Tap,
    detectors: Mapping[str, Detector],
    source: Any,
    batch_size: int = 256,
    wanted: Callable[[int], bool] = lambda number: True,
) -> Iterator[Iterator[Answer]]:
    """As `answers`, those about each batch by themselves, each given when it is asked for.

    Args:
        tap: As for `answers`.
        detectors: As for `answers`.
        source: As for `answers`.
        batch_size: As for `answers`.
        wanted: Says of a batch, counted from 0, whether to look at it.
    """
    for image, label, looks in Views(tap, detectors).stream(source, batch_size, wanted):
        yield _about(image, label, looks, detectors)


def _about(
    image: Tensor,
    label: Tensor,
    looks: Iterator[tuple[list[str], Activations]],
    detectors: Mapping[str, Detector],
) -> Iterator[Answer]:
    for names, seen in looks:
        check_grid(seen, label)
        labelled = replace(seen, labels=label)
        for name in names:
            yield Answer(name, image, ask(detectors[name], labelled), seen.logits.shape[1])


@torch.no_grad()
def ask(detector: Detector, activations: Activations) -> Scored:
    """Scores and predicted classes of one batch `[N, *grid]`, on the CPU.

    Without labels every image counts as unknown.
    """
    predicted, score = detector.answer(activations)
    shape = (len(activations), *activations.grid)
    label = activations.labels
    label = torch.full(shape, UNKNOWN) if label is None else label.cpu()
    return Scored(score.view(shape).cpu(), label, predicted.view(shape).cpu())


def check_grid(activations: Activations, label: Tensor) -> None:
    """Raises a ValueError where the labels have another grid than the network's logits."""
    grid, expected = tuple(activations.grid), tuple(label.shape[1:])
    if grid == expected:
        return
    if not expected:
        raise ValueError("the network labels pixels and labels are one per image; give label maps")
    if not grid:
        raise ValueError("the network labels whole images and labels are maps; give one per image")
    raise ValueError(
        f"the network labels {grid} pixels, the label maps have {expected}; "
        "let the network enlarge its logits to the image's size"
    )
