"""Scores beside the true and the predicted classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        p_value: The share of held-out known samples that look at least so strange `[N, *grid]`;
            None where no held-out scores are kept.
    """

    score: Tensor
    label: Tensor
    predicted: Tensor
    p_value: Tensor | None = None

    def __post_init__(self):
        shapes = [tuple(x.shape) for x in self.tensors().values()]
        if len(set(shapes)) > 1 or not shapes[0]:
            raise ValueError(
                "score, label and predicted must be [N, *grid] with the same N and grid; got "
                f"{', '.join(map(str, shapes))}"
            )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        return {name: x for name, x in vars(self).items() if x is not None}

    def map(self, change: Callable[[Tensor], Tensor]) -> Scored:
        """The same samples with `change` applied to every tensor."""
        return Scored(**{name: change(x) for name, x in self.tensors().items()})

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index) -> Scored:
        """The chosen samples; `index` is a slice, a mask or indices over the first dimension."""
        return self.map(lambda x: x[index])

    def rows(self) -> Scored:
        """One row per image or per pixel, `[N × grid]`."""
        return self.map(Tensor.flatten)

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
    tables = [part.tensors() for part in parts]
    names = [name for name in tables[0] if all(name in table for table in tables)]
    return Scored(**{name: torch.cat([table[name] for table in tables]) for name in names})
