"""The worker of a cluster: it has the model once and answers one slice after another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from openset.data.images import ImageSet
from openset.data.loaders import images_at_once
from openset.data.loose import Loose
from openset.data.readable import Readable
from openset.model.maps import INDEX, labels_pixels, legend, maps_of
from openset.model.open_set import OpenSet
from openset.model.predict import Inputs, answers
from openset.model.records import spelled, table_of
from openset.networks.device import choose_device
from openset.scale.parts import SKIPPED
from openset.scale.slices import SLICE, Picture, Slice
from openset.text import encodable

BATCH = 256
"""Whole images per pass."""

MAPPED = 8
"""Images whose maps are in memory at once, since those of large ones take many MB each."""

Given = tuple[dict[str, bytes], Any | None]
"""Maps by their files' names, where there are any, or at a slice's end the table of its rows."""


@dataclass(frozen=True)
class Question:
    """What is asked about every image.

    Args:
        model: The model, on the CPU.
        threshold: Another threshold `[1]` than the model's.
        probabilities: Whether to add the probability of each known class.
        batch_size: Images per pass; by default as many as the local path takes.
        workers: Threads that decode.
    """

    model: OpenSet
    threshold: Tensor | None = None
    probabilities: bool = False
    batch_size: int | None = None
    workers: int = 1


class Scorer:
    """Answers slices on one device.

    Args:
        question: The model and what to say of each image.
        device: The device as torch names it.
    """

    def __init__(self, question: Question, device: str):
        self.question, model = question, question.model
        model.tap.to(choose_device(device))
        assert model.adapter is not None
        self.legend = legend(model) if labels_pixels(model) else None
        black = torch.zeros(model.adapter.shape)
        self.columns = INDEX if self.legend else [*self._records(Inputs([black], 1))[0]]
        self._going: Iterator[Given] = iter(())

    def ready(self) -> None:
        """Returns once the model is there."""

    def score(self, piece: Slice) -> Given:
        """The first answers about a slice."""
        self._going = self._given(piece)
        return self.more()

    def more(self) -> Given:
        """The next answers about the same slice, where the last ones were not its table."""
        return next(self._going)

    def _given(self, piece: Slice) -> Iterator[Given]:
        rows, skipped, pictures, count = [], [], piece.pictures(), 0
        while some := list(islice(pictures, MAPPED if self.legend else SLICE)):
            names = [piece.called(count + i) for i in range(len(some))] if self.legend else []
            found, maps, wrong = self._answered(some, names)
            rows, skipped, count = rows + found, skipped + wrong, count + len(some)
            if maps:
                yield maps, None
        table = table_of(rows, self.columns)
        yield {}, table.replace_schema_metadata({SKIPPED: json.dumps(skipped)})

    def _answered(
        self, some: Sequence[Picture], names: Sequence[str]
    ) -> tuple[list[dict[str, Any]], dict[str, bytes], list[str]]:
        """Rows, maps by their files' names, and what is wrong with the other pictures."""
        wrong = [said for _, said in some if isinstance(said, str)]
        there = {i: content for i, (_, content) in enumerate(some) if isinstance(content, bytes)}
        pixels = Loose([*there.values()], self.question.workers, [some[i][0] for i in there])
        images = ImageSet(pixels, None, self.question.model.adapter)
        at_once = images_at_once(images) if self.legend else BATCH
        batches = Readable(images, self.question.batch_size or at_once)
        if self.legend is None:
            return self._records(batches), {}, wrong + batches.skipped
        asked, called = self.question, [names[i] for i in there]
        found = [*maps_of(asked.model, batches, called, self.legend, asked.threshold)]
        maps = {name: content for _, files in found for name, content in files.items()}
        return _encodable(row for row, _ in found), maps, wrong + batches.skipped

    def _records(self, images: Readable | Inputs) -> list[dict[str, Any]]:
        asked = self.question
        given = answers(asked.model, images, asked.threshold, probabilities=asked.probabilities)
        return _encodable(answer.record() for answer in given)


def _encodable(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*spelled(records, encodable)]
