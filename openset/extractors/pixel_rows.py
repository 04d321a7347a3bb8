"""A bounded sample of pixels as rows, so that a detector fits on pixels as it does on images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from openset.activations import Activations
from openset.data.loaders import images_at_once
from openset.extractors.extract import looks
from openset.processes import Processes
from openset.sampling import reservoir, some_of_each

PER_CLASS = 5_000
"""Pixels of each class that detectors are fitted on."""


HELD_OUT = 100_000
"""Held-out pixels that a threshold is set from."""


def pixel_rows(
    extractor: nn.Module,
    source: Any,
    most: int = PER_CLASS,
    *,
    balanced: bool = True,
    seed: int = 0,
    group: Processes = Processes(),  # noqa: B008
) -> list[Activations]:
    """A seeded sample of known pixels with their labels, as one batch of rows.

    Pixels of one image are alike, so every image gives about equally many: neither memory nor the
    choice grows with the number of images.

    Args:
        extractor: A `Tap` or another module from images to activations on a grid.
        source: Images with label maps.
        most: Pixels of each class, or in all.
        balanced: Whether `most` counts for each class; otherwise for all pixels together.
        seed: Seed of the sample.
        group: Processes that share the images out; the sample is as that of one.
    """
    count = len(source) if hasattr(source, "__len__") else 1
    share = max(1, -(-2 * most // max(count, 1)))
    found = group.in_order(_candidates(extractor, source, share, balanced, seed, group))
    first = next(found, None)
    if first is None:
        raise ValueError("no images: the data set or the loader gave no batch")
    layout, *_ = first
    classes = layout.width("logits") if balanced else 1
    pairs = ((x, label) for _, rows in chain([first], found) for x, label in rows)
    parts, _ = reservoir(pairs, classes, most, seed)
    return [layout.rows(torch.cat(parts))]


def _candidates(
    extractor: nn.Module, source: Any, share: int, balanced: bool, seed: int, group: Processes
) -> Iterator[tuple[Layout, list[tuple[Tensor, Tensor]]]]:
    """Packed rows of each image of a batch, with the class that each row counts for."""
    generator = torch.Generator().manual_seed(seed)
    at_once, layout, done = images_at_once(source), Layout(), 0
    for number, seen in looks(extractor, source, at_once, group.owns):
        pixels = seen.logits[0, 0].numel()
        for _ in range((number - done) * at_once):
            torch.randperm(pixels, generator=generator)  # As drawn from another process's images.
        found = []
        for i in range(len(seen)):
            rows = seen[i : i + 1].rows()
            assert rows.labels is not None
            groups = rows.labels if balanced else rows.labels.clamp_max(0)
            chosen = some_of_each(groups, share, generator)
            found.append((layout.pack(rows[chosen]), groups[chosen]))
        done = number + 1
        yield layout, found


class Layout:
    """Packs the parts of activations side by side into one matrix, and unpacks them."""

    def __init__(self):
        self.names: list[tuple[str, str, int]] = []
        self.head: tuple[Tensor, Tensor] | None = None

    def width(self, kind: str) -> int:
        """Columns of one kind, once something was packed."""
        return sum(width for each, _, width in self.names if each == kind)

    def pack(self, rows: Activations) -> Tensor:
        """All parts of rows as columns `[M, D]`, float32."""
        assert rows.labels is not None
        parts = [("labels", "", rows.labels[:, None]), ("logits", "", rows.logits)]
        parts += [("features", name, x) for name, x in rows.features.items()]
        parts += [("extra", name, x[:, None]) for name, x in rows.extra.items()]
        self.names = [(kind, name, x.shape[1]) for kind, name, x in parts]
        self.head = rows.head
        return torch.cat([x.float() for _, _, x in parts], dim=1)

    def rows(self, matrix: Tensor) -> Activations:
        """The activations that the matrix holds."""
        columns = matrix.split([width for _, _, width in self.names], dim=1)
        found: dict[str, dict[str, Tensor]] = {"features": {}, "extra": {}}
        logits = labels = matrix
        for (kind, name, _), x in zip(self.names, columns, strict=True):
            if kind == "labels":
                labels = x[:, 0].long()
            elif kind == "logits":
                logits = x.contiguous()
            else:
                found[kind][name] = x.contiguous() if kind == "features" else x[:, 0]
        return Activations(logits, found["features"], labels, found["extra"], self.head)
