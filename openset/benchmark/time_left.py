"""The time that work will take: a guess from a forward pass, corrected as the work goes on."""

from __future__ import annotations

import copy
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from openset.data import Data, ImageSet
from openset.detectors import Detector
from openset.networks.watch import evaluating

TIMED = 16
"""Images in the timed forward pass."""


TRIES = 3


BACKWARD = 3
"""The cost of a training step, in forward passes."""


class TimeLeft:
    """The time that is left, from a guess for each step and the time that finished ones took."""

    def __init__(self):
        self.guesses: dict[Hashable, float] = {}
        self.guessed = self.spent = 0.0

    def add(self, step: Hashable, seconds: float) -> None:
        """Adds a step that is still to be done, with a guess at its seconds."""
        self.guesses[step] = seconds

    def drop(self, *steps: Hashable) -> None:
        """Takes out steps that are done, by this process or another."""
        for step in steps:
            self.guesses.pop(step, None)

    @contextmanager
    def timing(self, step: Hashable) -> Iterator[None]:
        """Times a step while it runs; its time corrects the guesses for the others."""
        started = time.monotonic()
        yield
        if guess := self.guesses.pop(step):
            self.guessed += guess
            self.spent += time.monotonic() - started

    @property
    def seconds(self) -> float:
        """The seconds that are left, with the steps that are under way."""
        factor = self.spent / self.guessed if self.guessed else 1.0
        return factor * sum(self.guesses.values())

    def __str__(self) -> str:
        left = self.seconds
        return f"about {left:.0f} s left" if left < 90 else f"about {left / 60:.0f} min left"


def training_passes(data: Data, epochs: int) -> float:
    """The cost of a training, in forward passes of one image."""
    return epochs * len(data.train) * BACKWARD


def evaluation_passes(
    data: Data, unknown: Mapping[str, ImageSet], detectors: Sequence[Detector]
) -> float:
    """The cost of evaluating detectors, in forward passes of one image; their fits come on top."""
    if not detectors:
        return 0
    scored = len(data.valid) + len(data.test) + sum(len(images) for images in unknown.values())
    again = sum(detector.looks_again for detector in detectors)
    return len(data.train) + scored * (1 + again * (1 + BACKWARD))


def forward_speed(
    network: nn.Module, shape: tuple[int, int, int], device: torch.device | str = "cpu"
) -> float:
    """Images per second of the network's forward pass on a device, at the best of a few tries.

    The first pass of a shape, which is slower by far, is not counted.
    """
    network = copy.deepcopy(network).to(device)
    image = torch.zeros(TIMED, *shape, device=device)
    with evaluating(network), torch.no_grad():
        seconds = [_seconds(network, image) for _ in range(1 + TRIES)]
    return TIMED / max(min(seconds[1:]), 1e-6)


def _seconds(network: nn.Module, image: torch.Tensor) -> float:
    started = time.monotonic()
    network(image)
    if image.is_cuda:
        torch.cuda.synchronize(image.device)
    return time.monotonic() - started
