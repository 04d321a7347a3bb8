"""The worker of a cluster: it has the model once and answers one slice after another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from openset.data.images import ImageSet
from openset.data.loose import Loose
from openset.data.readable import Readable
from openset.model.open_set import OpenSet
from openset.model.predict import Inputs, answers
from openset.model.records import spelled, table_of
from openset.networks.device import choose_device
from openset.scale.parts import SKIPPED
from openset.scale.slices import SLICE, Picture, Slice
from openset.text import encodable


@dataclass(frozen=True)
class Question:
    """What is asked about every image.

    Args:
        model: The model, on the CPU.
        threshold: Another threshold `[1]` than the model's.
        probabilities: Whether to add the probability of each known class.
        batch_size: Images per pass.
        workers: Threads that decode.
    """

    model: OpenSet
    threshold: Tensor | None = None
    probabilities: bool = False
    batch_size: int = 256
    workers: int = 1


class Scorer:
    """Answers slices on one device.

    Args:
        question: The model and what to say of each image.
        device: The device as torch names it.
    """

    def __init__(self, question: Question, device: str):
        self.question = question
        question.model.tap.to(choose_device(device))
        assert question.model.adapter is not None
        black = torch.zeros(question.model.adapter.shape)
        self.columns = [*self._records(Inputs([black], 1))[0]]

    def ready(self) -> None:
        """Returns once the model is there."""

    def score(self, piece: Slice) -> Any:
        """The answers about a slice as a table, which names the images without one."""
        rows, skipped, pictures = [], [], piece.pictures()
        while some := list(islice(pictures, SLICE)):
            found, wrong = self._answered(some)
            rows, skipped = rows + found, skipped + wrong
        table = table_of(rows, self.columns)
        return table.replace_schema_metadata({SKIPPED: json.dumps(skipped)})

    def _answered(self, some: Sequence[Picture]) -> tuple[list[dict[str, Any]], list[str]]:
        wrong = [said for _, said in some if isinstance(said, str)]
        there = {i: content for i, (_, content) in enumerate(some) if isinstance(content, bytes)}
        names = [some[i][0] for i in there]
        pixels = Loose([*there.values()], self.question.workers, names)
        images = ImageSet(pixels, None, self.question.model.adapter)
        batches = Readable(images, self.question.batch_size)
        return self._records(batches), wrong + batches.skipped

    def _records(self, images: Readable | Inputs) -> list[dict[str, Any]]:
        asked = self.question
        given = answers(asked.model, images, asked.threshold, probabilities=asked.probabilities)
        return [*spelled((answer.record() for answer in given), encodable)]
