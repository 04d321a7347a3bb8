"""Scores beside the true and the predicted classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openset.activations import UNKNOWN

Thresholds = float | Sequence[float] | Tensor
"""One threshold for all classes, or one per class `[K]`, looked up by the predicted class."""


@dataclass
class Scored:
    """Scores of images or pixels, with their true and predicted classes.

    Args:
        score: `[N, *grid]`, the grid being `()` for images and `(H, W)` for label maps; higher =
            more unknown.
        label: True class `[N, *grid]`; `UNKNOWN` where it is none of the known ones.
        predicted: The known class that fits best `[N, *grid]`, whatever the score.
    """

    score: Tensor
    label: Tensor
    predicted: Tensor

    def __post_init__(self):
        shapes = [tuple(x.shape) for x in (self.score, self.label, self.predicted)]
        if len(set(shapes)) > 1 or not shapes[0]:
            raise ValueError(
                "score, label and predicted must be [N, *grid] with the same N and grid; got "
                f"{', '.join(map(str, shapes))}"
            )

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index) -> Scored:
        """The chosen samples; `index` is a slice, a mask or indices over the first dimension."""
        return Scored(self.score[index], self.label[index], self.predicted[index])

    def rows(self) -> Scored:
        """One row per image or per pixel, `[N × grid]`."""
        return Scored(self.score.flatten(), self.label.flatten(), self.predicted.flatten())

    def rejected(self, threshold: Thresholds) -> Tensor:
        """Whether each score lies above the threshold, `[N, *grid]`."""
        applying = torch.as_tensor(threshold, dtype=torch.float64, device=self.score.device)
        return self.score > (applying[self.predicted] if applying.dim() else applying)

    def answers(self, threshold: Thresholds) -> Tensor:
        """The answers of an open-set classifier `[N, *grid]`: a known class or `UNKNOWN`."""
        return torch.where(self.rejected(threshold), UNKNOWN, self.predicted)


def joined(parts: Sequence[Scored]) -> Scored:
    """Parts one after another."""
    if not parts:
        raise ValueError("no images: the data set or the loader gave no batch")
    if len(parts) == 1:
        return parts[0]
    columns = zip(*((p.score, p.label, p.predicted) for p in parts), strict=True)
    return Scored(*(torch.cat(column) for column in columns))
