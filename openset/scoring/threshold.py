"""A threshold from known data alone, with what it guarantees."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import ceil
from typing import Any, Self, TypedDict

import torch
from torch import Tensor

from openset.scoring.scored import Scored
from openset.spec import call


class ThresholdRecord(TypedDict, total=False):
    """How a detector's threshold came about; a plain dict with these keys.

    `value` is one threshold or one per class; `accept` the share of known images asked for; `n` the
    number of held-out known images; `guarantee` one sentence; `interval` the 95 % interval of the
    share of future known images that are accepted; `training` the threshold that accepts the same
    share of the training images.
    """

    value: float | list[float]
    accept: float
    n: int
    guarantee: str
    interval: tuple[float, float]
    training: float


@dataclass(frozen=True)
class Threshold:
    """The score above which a sample is called unknown, for all classes or for each.

    Args:
        values: One threshold, or one per predicted class.
        accept: The share of known samples to accept, asked for.
        counts: Held-out known samples that each value rests on.
        training: The score that the same share of the training samples stays at or below, where it
            was asked for; it decides nothing but the metric `macro_f1_train`.

    Example:
        >>> threshold = Threshold.conformal(torch.arange(99.0), accept=0.95)
        >>> threshold.values, threshold.ranks
        ((94.0,), (95,))
    """

    values: tuple[float, ...]
    accept: float
    counts: tuple[int, ...]
    training: float | None = None

    @classmethod
    def conformal(
        cls, scores: Tensor, accept: float = 0.95, classes: Tensor | None = None, number: int = 1
    ) -> Self:
        """Split-conformal quantile of held-out known scores.

        Vovk et al., 2005; Angelopoulos & Bates, 2021, https://arxiv.org/abs/2107.07511. The
        ⌈(n + 1)·accept⌉-th smallest of n scores accepts a further known sample with probability at
        least `accept`, provided that it is drawn as the held-out ones were.

        Args:
            scores: `[n]`, of known samples that no fit has seen.
            accept: Share in 0…1.
            classes: Predicted class `[n]` of each score, for a threshold per class.
            number: Number of classes, with `classes`.

        Raises:
            ValueError: If there are too few scores for the share.
        """
        if not 0 < accept < 1:
            raise ValueError(f"accept must lie between 0 and 1; got {accept}")
        if scores.isnan().any():
            raise ValueError(f"{int(scores.isnan().sum())} held-out scores are NaN; check the fit")
        groups = [scores] if classes is None else [scores[classes == c] for c in range(number)]
        values = [_quantile(group, accept, c, len(groups)) for c, group in enumerate(groups)]
        return cls(tuple(values), accept, tuple(len(group) for group in groups))

    @classmethod
    def of(cls, scored: Scored, accept: float = 0.95, classes: int | None = None) -> Self:
        """The conformal threshold of held-out data; samples of no known class are left out.

        Args:
            scored: The held-out data.
            accept: Share in 0…1.
            classes: The network's classes, for a threshold for each; None for one for all.
        """
        known = scored.label >= 0
        if classes is None:
            return cls.conformal(scored.score[known], accept)
        return cls.conformal(scored.score[known], accept, scored.predicted[known], classes)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Which of the sorted held-out scores each value is, counted from 1."""
        return tuple(ceil((n + 1) * self.accept - 1e-9) for n in self.counts)

    @property
    def coverage(self) -> tuple[float, float]:
        """A 95 % interval of the share of known samples that will be accepted.

        Over draws of the held-out set that share is Beta(k, n + 1 − k) distributed, k the rank; for
        a threshold per class, the classes' shares are weighted by their counts.
        """
        from scipy.stats import beta  # Slow to import.

        shares = [
            beta.ppf([0.025, 0.975], rank, n + 1 - rank)
            for rank, n in zip(self.ranks, self.counts, strict=True)
        ]
        total = sum(self.counts)
        low, high = (
            sum(share[i] * n for share, n in zip(shares, self.counts, strict=True)) / total
            for i in (0, 1)
        )
        return float(low), float(high)

    def tensor(self) -> Tensor:
        """The values, `[1]` or `[K]`."""
        return torch.tensor(self.values, dtype=torch.float64)

    def guarantee(self) -> str:
        """The guarantee in words."""
        low, high = self.coverage
        each = " of each predicted class" if len(self.values) > 1 else ""
        return (
            f"At least {self.accept:.1%} of future known samples{each} are accepted on average, if "
            f"they are drawn as the {sum(self.counts)} held-out ones were; "
            f"with 95 % confidence the share lies in {low:.2%} … {high:.2%}."
        )

    def settings(self) -> dict[str, Any]:
        """As plain JSON values, with what follows from them for readers of the file."""
        return {**_plain(asdict(self)), "coverage": [*self.coverage], "guarantee": self.guarantee()}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """What `settings` describes.

        Raises:
            ValueError: For values that no calibration gives.
        """
        own = {field.name: settings[field.name] for field in fields(cls) if field.name in settings}
        read = call("threshold", cls, {k: _hashable(x) for k, x in own.items()})
        fits = len(read.values) == len(read.counts) > 0 and all(
            0 < rank <= n for rank, n in zip(read.ranks, read.counts, strict=True)
        )
        if not 0 < read.accept < 1 or not fits:
            raise ValueError(
                f"a threshold has as many values as counts, and a share that they allow; got {own}"
            )
        return read

    def record(self) -> ThresholdRecord:
        """As results and reports show it."""
        record = ThresholdRecord(
            value=self.values[0] if len(self.values) == 1 else list(self.values),
            accept=self.accept,
            n=sum(self.counts),
            guarantee=self.guarantee(),
            interval=self.coverage,
        )
        if self.training is not None:
            record["training"] = self.training
        return record


def training_quantile(scores: Tensor, accept: float) -> float:
    """The smallest of the training scores `[n]` that accepts at least this share of them.

    Example:
        >>> training_quantile(torch.arange(20.0), accept=0.95)
        18.0
    """
    return float(scores.double().sort().values[ceil(len(scores) * accept - 1e-9) - 1])


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: list(x) if isinstance(x, tuple) else x for key, x in settings.items()}


def _quantile(scores: Tensor, accept: float, c: int, groups: int) -> float:
    n = len(scores)
    rank = ceil((n + 1) * accept - 1e-9)
    if rank > n:
        needed = ceil(accept / (1 - accept) - 1e-9)
        where = f" predicted as class {c}" if groups > 1 else ""
        raise ValueError(
            f"accepting {accept:.1%} needs at least {needed} held-out known samples{where}; "
            f"got {n}; hold out more, or accept a smaller share"
        )
    return float(scores.double().sort().values[rank - 1])
