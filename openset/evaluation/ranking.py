"""The one definition of AUROC, average precision and FPR95: from counts at ascending scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

Values = Tensor | np.ndarray | Sequence[float]
"""Scores, labels or predictions `[N]` of any kind that `torch.as_tensor` takes."""


@dataclass(frozen=True)
class Ranking:
    """Counts of known and of unknown samples at each score, scores ascending.

    Samples of equal score make one step. Every figure equals scikit-learn's to the last bit, as the
    tests prove; there it is computed from one entry per sample, which pixels are too many for.

    Args:
        known: Counts `[S]` of known samples.
        unknown: Counts `[S]` of unknown samples.

    Example:
        >>> Ranking.of(known=[0.1, 0.4], unknown=[0.4, 0.9]).auroc()
        0.875
    """

    known: np.ndarray
    unknown: np.ndarray

    @classmethod
    def of(cls, known: Values, unknown: Values) -> Self:
        """Counts scores that are in memory.

        Raises:
            ValueError: For NaN, and where there is not at least one sample of each kind.
        """
        is_unknown, rank = ranks(known, unknown)
        sides = (
            np.bincount(rank[side], minlength=rank.max() + 1) for side in (~is_unknown, is_unknown)
        )
        return cls(*sides)

    @property
    def complete(self) -> bool:
        """Whether there are samples of both kinds, without which no figure is defined."""
        return bool(self.known.any() and self.unknown.any())

    def auroc(self) -> float:
        """The area under the ROC curve; ties count one half."""
        found, rejected = self._found
        if len(found) > 2:
            # scikit-learn leaves out points on a straight line, which decides about the last bit.
            bends = (np.diff(found, 2) != 0) | (np.diff(rejected, 2) != 0)
            corners = np.concatenate([[True], bends, [True]])
            found, rejected = found[corners], rejected[corners]
        found, rejected = (np.concatenate([[0], side]) / side[-1] for side in (found, rejected))
        return float(np.trapezoid(found, rejected))

    def aupr_unknown(self) -> float:
        """The average precision of the unknown, found from the highest score down."""
        found, rejected = self._found
        precision = found / np.maximum(found + rejected, 1)
        recall = found / found[-1]
        steps = np.diff(np.append(recall[::-1], 0.0))
        return max(0.0, -float(np.sum(steps * precision[::-1])))

    def aupr_known(self) -> float:
        """The average precision of the known, found from the lowest score up."""
        return self._mirrored().aupr_unknown()

    def fpr_at_95_tpr(self) -> float:
        """The share of unknown accepted where 95 % of known are."""
        return self._mirrored()._errors()[1]

    def tnr_at_95_tpr(self) -> float:
        """The share of unknown rejected where 95 % of known are accepted."""
        return 1 - self.fpr_at_95_tpr()

    def detection_error(self) -> float:
        """The mean of both shares of errors where 95 % of known are accepted."""
        return sum(self._mirrored()._errors()) / 2

    def detection_accuracy(self) -> float:
        """The largest mean of the shares of known accepted and of unknown rejected."""
        unknown, known = self.curve()
        return float((known + 1 - unknown).max() / 2)

    def fpr_at_95_tpr_unknown(self) -> float:
        """The share of known rejected where 95 % of unknown are."""
        return self._errors()[1]

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """The shares of unknown and of known accepted, from no sample to all, `[S + 1]` both."""
        unknown, known = self.unknown.cumsum(), self.known.cumsum()
        unknown, known = (np.concatenate([[0], side]) / side[-1] for side in (unknown, known))
        return unknown, known

    def _errors(self, share: float = 0.95) -> tuple[float, float]:
        """The shares of unknown missed and of known rejected, where `share` of unknown is found."""
        found, rejected = (side / side[-1] for side in self._found)
        at = np.argmax(found >= share)
        return float(1 - found[at]), float(rejected[at])

    def _mirrored(self) -> Ranking:
        """Swaps known and unknown, and negates the scores."""
        return Ranking(self.unknown[::-1], self.known[::-1])

    @cached_property
    def _found(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts unknown found and known rejected by mistake, from the highest score down."""
        return self.unknown[::-1].cumsum(), self.known[::-1].cumsum()


def ranks(known: Values, unknown: Values) -> tuple[np.ndarray, np.ndarray]:
    """Whether each sample is unknown `[N]`, and its score's dense rank `[N]`; known come first.

    Infinite scores rank first or last.

    Raises:
        ValueError: For NaN, and where there is not at least one sample of each kind.
    """
    parts = [torch.as_tensor(x).detach().cpu().double().numpy() for x in (known, unknown)]
    for side, part in zip(("known", "unknown"), parts, strict=True):
        if part.ndim != 1 or not part.size:
            raise ValueError(f"{side} scores must be [N] with N ≥ 1; got shape {part.shape}")
        check_numbers(part, f"{side} scores")
    is_unknown = np.repeat([False, True], [part.size for part in parts])
    return is_unknown, np.unique(np.concatenate(parts), return_inverse=True)[1]


def check_numbers(scores: np.ndarray, name: str) -> None:
    """Raises a ValueError where scores are NaN, which have no rank."""
    if broken := int(np.isnan(scores).sum()):
        raise ValueError(
            f"{broken} of {scores.size} {name} are NaN and cannot be ranked; "
            "look for NaN in the images or in the network's output"
        )
