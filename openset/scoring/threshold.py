"""A threshold from known data alone, with what it guarantees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import ceil
from numbers import Real
from typing import Any, Self, TypedDict

import torch
from torch import Tensor

from openset.scoring.scored import Scored
from openset.spec import call

ROUNDING = 1e-4
"""Relative distance of a threshold of `Threshold.of` above the score it is set by.

An image's score differs in the last digits with the batch it comes in, the memory format and the
machine. Where many images score alike, all of them would fall to one side or the other by that.
"""

TAKEN_IN = 0.01
"""Share of the held-out samples that this distance may take in beyond those of equal score."""

SEEN = "the network may have been trained on the held-out images"
"""The doubt about a network that was trained elsewhere, wholly or to begin with."""

ALIKE = "pixels of one image are alike, so that many of them tell no more than a few images do"
"""The doubt about a threshold that was set from pixels."""


class ThresholdRecord(TypedDict, total=False):
    """The value of a detector's threshold and its basis; a plain dict with these keys.

    `value` is one threshold or one per class; `accept` the share of known images asked for; `n` the
    number of held-out known images; `guarantee` one sentence; `interval` the 95 % interval of the
    share of future known images that are accepted; `doubt` why neither need hold, where that is so;
    `training` the threshold that accepts the same share of the training images.
    """

    value: float | list[float]
    accept: float
    n: int
    guarantee: str
    interval: tuple[float, float]
    doubt: str
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
        accepted: Held-out samples of its own that each value accepts; more than were asked for
            where scores are equal. None if nobody noted it.
        doubt: Why the guarantee need not hold, such as `SEEN`; None where nothing is known against
            it.

    Example:
        >>> threshold = Threshold.conformal(torch.arange(99.0), accept=0.95)
        >>> threshold.values, threshold.ranks
        ((94.0,), (95,))
    """

    values: tuple[float, ...]
    accept: float
    counts: tuple[int, ...]
    training: float | None = None
    accepted: tuple[int, ...] | None = None
    doubt: str | None = None

    @classmethod
    def conformal(
        cls,
        scores: Any,
        accept: float = 0.95,
        classes: Tensor | None = None,
        number: int = 1,
        *,
        rounding: float = 0.0,
    ) -> Self:
        """Takes the split-conformal quantile of held-out known scores.

        Vovk et al., 2005; Angelopoulos & Bates, 2021, https://arxiv.org/abs/2107.07511. The
        ⌈(n + 1)·accept⌉-th smallest of n scores accepts a further known sample with probability at
        least `accept`, provided that it is drawn as the held-out ones were. Equal scores are
        accepted together, so they raise the share and never lower it; so does `rounding`.

        Args:
            scores: `[n]`, a tensor or an array, of known samples that no fit has seen.
            accept: Share in 0…1.
            classes: Predicted class `[n]` of each score, for a threshold per class.
            number: Number of classes, with `classes`.
            rounding: Distance of the threshold above that score, as a share of its size; less
                where `TAKEN_IN` of the held-out samples lie between.

        Raises:
            ValueError: If there are too few scores for the share, or some are not finite.
        """
        check_accept(accept)
        return cls.of_groups(grouped(torch.as_tensor(scores), classes, number), accept, rounding)

    @classmethod
    def of_groups(cls, ordered: Sequence[Tensor], accept: float, rounding: float = 0.0) -> Self:
        """As `conformal`, from ascending scores of each group: of all samples, or of each class."""
        accept = check_accept(accept)
        for c, group in enumerate(ordered):
            check_count(len(group), accept, f" predicted as class {c}" * (len(ordered) > 1))
        values = [_above(group, _rank(len(group), accept), rounding) for group in ordered]
        accepted = [
            int((group <= value).sum()) for group, value in zip(ordered, values, strict=True)
        ]
        return cls(tuple(values), accept, tuple(map(len, ordered)), accepted=tuple(accepted))

    @classmethod
    def of(cls, scored: Scored, accept: float = 0.95, classes: int | None = None) -> Self:
        """Takes the conformal threshold of held-out data; samples of no known class are left out.

        It lies above the score it is set by as `ROUNDING` says.

        Args:
            scored: The held-out data.
            accept: Share in 0…1.
            classes: The network's classes, for a threshold for each; None for one for all.
        """
        return cls.of_groups(known_groups(scored, classes), accept, ROUNDING)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Position of each value among the sorted held-out scores, counted from 1."""
        return tuple(_rank(n, self.accept) for n in self.counts)

    @property
    def coverage(self) -> tuple[float, float]:
        """A 95 % interval of the share of known samples that will be accepted.

        Over draws of the held-out set, the share below the k-th smallest of n continuous scores is
        Beta(k, n + 1 − k) distributed. Where scores are equal the share can only be larger, so the
        lower end holds for any scores; the upper end is that of Clopper & Pearson, 1934, for the
        held-out samples that were accepted, which holds for any scores too. With a threshold per
        class the interval holds for the shares of all K classes at once (Bonferroni).
        """
        from scipy.special import betaincinv  # Slow to import.

        tail = 0.025 / len(self.counts)
        accepted = self.counts if self.accepted is None else self.accepted
        each = list(zip(self.ranks, accepted, self.counts, strict=True))
        low = min(betaincinv(k, n + 1 - k, tail) for k, _, n in each)
        high = max(betaincinv(m + 1, n - m, 1 - tail) if m < n else 1.0 for _, m, n in each)
        return float(low), float(high)

    def tensor(self) -> Tensor:
        """The values, `[1]` or `[K]`."""
        return torch.tensor(self.values, dtype=torch.float64)

    def doubted(self, doubt: str | None) -> Self:
        """This threshold with a reason why its guarantee need not hold; None adds no reason."""
        return self if doubt is None else replace(self, doubt=doubt)

    def guarantee(self) -> str:
        """The guarantee in words, or why there is none."""
        n, share = sum(self.counts), percent(self.accept)
        if self.doubt is not None:
            return (
                f"No guarantee holds: {self.doubt}. The threshold accepts {share} of the {n} "
                "held-out known samples, and may accept fewer of future ones."
            )
        # The ends are rounded outwards, so that what is said is what was computed.
        low, high = (10_000 * end for end in self.coverage)
        per_class = len(self.values) > 1
        return (
            f"At least {share} of future known samples{' of each predicted class' * per_class} are "
            f"accepted on average, if they are drawn as the {n} held-out ones were; with 95 % "
            f"confidence the share{' of every class' * per_class} lies in "
            f"{int(low) / 100:.2f}% … {ceil(high) / 100:.2f}%."
        )

    def settings(self) -> dict[str, Any]:
        """The fields as plain JSON values, with the interval and the guarantee for readers."""
        return {**_plain(asdict(self)), "coverage": [*self.coverage], "guarantee": self.guarantee()}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Rebuilds the threshold that `settings` describes.

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
        """The threshold as results and reports show it."""
        record = ThresholdRecord(
            value=self.values[0] if len(self.values) == 1 else list(self.values),
            accept=self.accept,
            n=sum(self.counts),
            guarantee=self.guarantee(),
            interval=self.coverage,
        )
        if self.doubt is not None:
            record["doubt"] = self.doubt
        if self.training is not None:
            record["training"] = self.training
        return record


def known_groups(scored: Scored, classes: int | None = None) -> list[Tensor]:
    """The ascending scores of the known samples, all together or by each predicted class."""
    known = scored.label >= 0
    groups = None if classes is None else scored.predicted[known]
    return grouped(scored.score[known], groups, classes or 1)


def grouped(scores: Tensor, classes: Tensor | None, number: int) -> list[Tensor]:
    """Ascending scores, all together or of each of `number` classes; refuses what is not finite."""
    if not scores.isfinite().all():
        bad = int((~scores.isfinite()).sum())
        raise ValueError(f"{bad} held-out scores are NaN or infinite; check the fit")
    return [
        (scores if classes is None else scores[classes == c]).double().sort().values
        for c in range(1 if classes is None else number)
    ]


def training_quantile(scores: Tensor, accept: float) -> float:
    """The smallest of the training scores `[n]` that accepts at least this share of them.

    Example:
        >>> training_quantile(torch.arange(20.0), accept=0.95)
        18.0
    """
    return float(scores.double().sort().values[ceil(len(scores) * accept - 1e-9) - 1])


def check_accept(accept: Any) -> float:
    """Returns the share of known samples to accept; raises unless it is between 0 and 1."""
    if not isinstance(accept, Real) or not 0 < float(accept) < 1:
        raise ValueError(f"accept must lie between 0 and 1; got {accept!r}; give such as 0.95")
    return float(accept)


def check_count(n: int, accept: float, where: str = "") -> None:
    """Raises where n held-out samples are too few for a share."""
    if _rank(n, accept) > n:
        odds = accept / (1 - accept)
        needed = ceil(odds - 1e-9 * max(1, odds))  # 0.9999 and 1 are not 9,999 exactly.
        raise ValueError(
            f"accepting {percent(accept)} needs at least {needed} held-out known samples{where}; "
            f"got {n}; hold out more, or accept a smaller share"
        )


def strays(accepted: int, total: int, interval: tuple[float, float]) -> bool:
    """Whether test samples contradict an interval of `Threshold.coverage`, by more than chance.

    A share measured on few samples lies outside the interval now and then, though the share of all
    samples lies inside; that would happen in fewer than 1 of 20 draws of such a test set.

    Args:
        accepted: Known test samples that were accepted.
        total: Known test samples.
        interval: Shares in 0…1.

    Example:
        >>> strays(88, 100, (0.9, 0.99)), strays(880, 1000, (0.9, 0.99))
        (False, True)
    """
    from scipy.special import bdtr, bdtrc  # Slow to import.

    low, high = interval
    below, above = bdtr(accepted, total, low), bdtrc(accepted - 1, total, high)
    return bool(min(below, above) < 0.025)


def percent(share: float) -> str:
    """A share in percent with at least one decimal, and as many as it takes not to round it.

    Example:
        >>> percent(0.95), percent(0.9999)
        ('95.0%', '99.99%')
    """
    digits = next((d for d in range(1, 12) if round(share, d + 2) == share), 12)
    return f"{share:.{digits}%}"


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: list(x) if isinstance(x, tuple) else x for key, x in settings.items()}


def _rank(n: int, accept: float) -> int:
    return ceil((n + 1) * accept - 1e-9)


def _above(ordered: Tensor, rank: int, rounding: float) -> float:
    """The `rank`-th of sorted scores, and as far above it as rounding may carry an equal one."""
    score = float(ordered[rank - 1])
    if not rounding:
        return score
    value = score + max(rounding * abs(score), torch.finfo(torch.float32).tiny)
    # Scores that crowd, as 1 − p / 1000 do, lie nearer to one another than `rounding`; of those
    # that differ by more than the last bits of float32, few may be taken in.
    beyond = ordered[ordered > score + 4 * torch.finfo(torch.float32).eps * abs(score)]
    few = int(TAKEN_IN * len(ordered))
    if len(beyond) <= few:
        return value
    last = ordered[ordered < beyond[few]][-1]
    return min(value, float(last + beyond[few]) / 2)
