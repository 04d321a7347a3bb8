"""Scores of one data set, with labels and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openset.activations import UNKNOWN

Cut = float | Sequence[float] | Tensor
"""A threshold for all classes, or one per class `[K]`, looked up by the predicted class."""


@dataclass
class Scored:
    """One data set as a detector saw it.

    Args:
        score: `[N]`; higher = more unknown.
        label: True class `[N]`; `UNKNOWN` where it is none of the known ones.
        predicted: The known class that fits best `[N]`, whatever the score.
    """

    score: Tensor
    label: Tensor
    predicted: Tensor

    def __post_init__(self):
        sizes = {len(self.score), len(self.label), len(self.predicted)}
        if len(sizes) > 1 or self.score.dim() != 1:
            raise ValueError(
                f"score, label and predicted must be [N] with the same N; got "
                f"{tuple(self.score.shape)}, {tuple(self.label.shape)}, "
                f"{tuple(self.predicted.shape)}"
            )

    def __len__(self) -> int:
        return len(self.score)

    def rejected(self, threshold: Cut) -> Tensor:
        """Where the score lies above the threshold, `[N]`."""
        cut = torch.as_tensor(threshold, dtype=torch.float64, device=self.score.device)
        return self.score > (cut[self.predicted] if cut.dim() else cut)

    def answers(self, threshold: Cut) -> Tensor:
        """What an open-set classifier answers: the predicted class, or `UNKNOWN`, `[N]`."""
        return torch.where(self.rejected(threshold), UNKNOWN, self.predicted)
