"""Progress of a training run: its time, its losses, and a bar that shows it."""

from __future__ import annotations

import math
import time

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor


class Clock:
    """Rings every so many minutes; never, if they are None."""

    def __init__(self, minutes: float | None):
        if minutes is not None and not minutes >= 0:
            raise ValueError(f"{minutes:g} minutes make no sense; give 0 or more")
        self.seconds = math.inf if minutes is None else 60 * minutes
        self.start = time.monotonic()

    def rings(self) -> bool:
        if time.monotonic() - self.start < self.seconds:
            return False
        self.start = time.monotonic()
        return True


class Losses:
    """The mean loss of each learner over an epoch.

    Values stay on the device until `settle`, so that the loop need not wait for it at every step.
    """

    def __init__(self):
        self.sums: dict[str, list[float]] = {}
        self.waiting: list[tuple[str, Tensor, int, int]] = []

    def add(self, learner: str, loss: Tensor, epoch: int, step: int) -> None:
        self.waiting.append((learner, loss.detach(), epoch, step))
        if len(self.waiting) >= 32:
            self.settle()

    def settle(self) -> None:
        """Adds the losses that wait on the device to the sums.

        Raises:
            ValueError: If a loss was NaN or infinite.
        """
        waiting, self.waiting = self.waiting, []
        values = (
            torch.stack([loss.float() for _, loss, _, _ in waiting]).tolist() if waiting else []
        )
        for (learner, _, epoch, step), value in zip(waiting, values, strict=True):
            if not math.isfinite(value):
                raise ValueError(
                    f"the loss of {learner} is {value} at epoch {epoch + 1}, step {step + 1}; try "
                    "a lower lr, a clip_norm such as 1, or precision 32-true"
                )
            total, count = self.sums.get(learner, (0.0, 0))
            self.sums[learner] = [total + value, count + 1]

    def means(self) -> dict[str, float]:
        self.settle()
        return {learner: total / count for learner, (total, count) in self.sums.items()}

    def state_dict(self) -> dict[str, list[float]]:
        return dict(self.sums)

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self.sums, self.waiting = dict(state), []


class _Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


def progress_bar(wanted: bool, text: str = "epoch {task.fields[epoch]}") -> Progress:
    """A bar over all images with the rate and the time left; silent where no one looks."""
    console = Console(stderr=True)
    return Progress(
        TextColumn(text),
        BarColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        redirect_stdout=False,  # It may be a pipe or a file.
        disable=not (wanted and console.is_terminal),
    )
