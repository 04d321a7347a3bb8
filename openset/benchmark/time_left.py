"""How long work will take: a guess from a timed forward pass, corrected as the work goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from openset.data import Data, ImageSet
from openset.detectors import Detector
from openset.networks.watch import evaluating

TIMED = 16
"""Images in the timed forward pass."""


BACKWARD = 3
"""What a training step costs, in forward passes."""


class TimeLeft:
    """The time that is left, from a guess for each step and how long those behind us took."""

    def __init__(self):
        self.guesses: dict[str, float] = {}
        self.guessed = self.spent = 0.0

    def add(self, step: str, seconds: float) -> None:
        """A step that is ahead."""
        self.guesses[step] = seconds

    @contextmanager
    def timing(self, step: str) -> Iterator[None]:
        """Runs a step; its time corrects the guesses for the others."""
        started = time.monotonic()
        yield
        guess = self.guesses.pop(step)
        if guess:
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
    """What a training costs, in forward passes of one image."""
    return epochs * len(data.train) * BACKWARD


def evaluation_passes(
    data: Data, unknown: Mapping[str, ImageSet], detectors: Sequence[Detector]
) -> float:
    """What these detectors cost, in forward passes of one image; their fits come on top."""
    if not detectors:
        return 0
    scored = len(data.valid) + len(data.test) + sum(len(images) for images in unknown.values())
    again = sum(detector.looks_again for detector in detectors)
    return len(data.train) + scored * (1 + again * (1 + BACKWARD))


def forward_speed(network: nn.Module, shape: tuple[int, int, int]) -> float:
    """Images per second of the network's forward pass, timed on this machine's CPU."""
    image = torch.zeros(TIMED, *shape)
    with evaluating(network), torch.no_grad():
        network(image[:2])
        started = time.monotonic()
        network(image)
    return TIMED / max(time.monotonic() - started, 1e-6)
