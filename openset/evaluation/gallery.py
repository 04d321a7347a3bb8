"""The images that the report shows: which ones, their thumbnails, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.extractors.extract import stream
from openset.extractors.tap import Tap
from openset.scoring.scored import Scored, Thresholds

SHOWN = 200
"""Images that the report shows of a run, over all of its data sets."""


THUMBNAIL = 128
"""Longest side in pixels of the images that are kept."""


NEAR = 3
"""Training images that are shown beside an image."""


TRAINING = "training images"
"""Names, in the place of a data set, the images that the network was trained on."""


class Details(TypedDict, total=False):
    """What is known of an image that the report shows, beside its scores.

    `path` is its file, or its place in its set; `runner_up` the class that each detector found
    second; `parts` how rare each member of a fusion, or each layer, finds it, by p-value; `near`
    indices and distances of the nearest training images; `label` the name of a training image's
    class.
    """

    path: str
    runner_up: dict[str, int]
    parts: dict[str, list[tuple[str, float]]]
    near: list[tuple[int, float]]
    label: str


def joined_details(one: Details, other: Details) -> Details:
    """What two results know of one image; each detector keeps its own part."""
    both: Any = {**one, **other}
    for name in ("runner_up", "parts"):
        both[name] = {**one.get(name, {}), **other.get(name, {})}
    return both


def worst(scored: Scored, *, known: bool) -> list[int]:
    """Indices of the images that a detector gets most wrong, worst first.

    The highest scores of the known data, the lowest of an unknown set.
    """
    return scored.score.argsort(descending=known, stable=True).tolist()


def nearest(scored: Scored, threshold: Thresholds) -> list[int]:
    """Indices of the images around the threshold, nearest first."""
    value = torch.as_tensor(threshold, dtype=torch.float64)
    applying = value[scored.predicted] if value.dim() else value
    return (scored.score.double() - applying).abs().argsort(stable=True).tolist()


def interesting(
    seen: Sequence[tuple[Scored, Thresholds | None]], count: int, *, known: bool
) -> list[int]:
    """Indices of the images of one set that are worth a look, in their order.

    The detectors take turns: each names its worst mistake, the image nearest to its threshold, and
    in the third turn chance does, so that the usual images are shown too.

    Args:
        seen: The set as each detector scored it, with its threshold.
        count: The most images to name.
        known: Whether the set is the known one.
    """
    columns = [worst(scored, known=known) for scored, _ in seen]
    columns += [nearest(scored, value) for scored, value in seen if value is not None]
    total = max(len(scored) for scored, _ in seen)
    columns.append(torch.randperm(total, generator=torch.Generator().manual_seed(0)).tolist())
    return sorted(_first(chain.from_iterable(zip_longest(*columns)), min(count, total)))


def _first(indices: Iterable[int | None], count: int) -> Iterator[int]:
    """So many different ones."""
    found: set[int] = set()
    for i in indices:
        if len(found) == count:
            return
        if i is not None and i not in found:
            found.add(i)
            yield i


@torch.no_grad()
def nearest_training(tap: Tap, images: Any, training: Any) -> list[list[tuple[int, float]]]:
    """The training images nearest to each image, with their distances, nearest first.

    The distance is that of the cosine between the features that the tap reads, 0 for the same
    direction and 2 for the opposite one, as in nearest-neighbour detection (Sun et al., 2022,
    https://arxiv.org/abs/2204.06507).
    """
    wanted = torch.cat([_directions(seen) for seen in stream(tap, images)])
    distance = torch.full((len(wanted), NEAR), torch.inf)
    index = torch.full((len(wanted), NEAR), -1)
    start = 0
    for seen in stream(tap, training):
        found = torch.cat([distance, 1 - wanted @ _directions(seen).T], 1)
        here = torch.arange(start, start + len(seen)).expand(len(wanted), -1)
        distance, place = found.topk(NEAR, largest=False)
        index = torch.cat([index, here], 1).gather(1, place)
        start += len(seen)
    pairs = zip(index.tolist(), distance.tolist(), strict=True)
    return [[(i, d) for i, d in zip(*each, strict=True) if i >= 0] for each in pairs]


def _directions(seen: Activations) -> Tensor:
    return F.normalize(seen.rows().stacked().float(), dim=1)


def thumbnail(image: Tensor) -> Tensor:
    """An image `[C, H, W]` as uint8, at most `THUMBNAIL` pixels a side."""
    if image.is_floating_point():
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    shrink = THUMBNAIL / max(image.shape[1:])
    if shrink < 1:
        size = [max(1, round(side * shrink)) for side in image.shape[1:]]
        image = F.interpolate(image[None].float(), size, mode="area")[0].round().to(torch.uint8)
    return image.cpu().contiguous()
