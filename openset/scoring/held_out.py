"""Held-out known scores that stay with a model: p-values and other thresholds without the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.detectors.ranks import evenly_rare
from openset.fitted import Fitted
from openset.scoring.threshold import ROUNDING, Threshold, check_accept

KNOTS = 1000
"""Scores that are kept of each group, at most."""

MOST = 2**27
"""Held-out samples of a group that a file may speak of; more, and it is a forgery."""

PERCENTS = 100
"""Shares 0.01, 0.02, … that can be accepted exactly, however many scores there were."""


class HeldOut(Fitted):
    """The scores of held-out known samples, all of them or `KNOTS` of each group.

    Of more, the scores stay that whole percents to accept rest on, and of the others those at
    evenly spaced −log p, which are all of the highest. What is asked between two of them is
    answered on the safe side: the p-value of the lower one, the threshold of the higher one.

    A model with a threshold per class has a group for each predicted class. The scores stay in
    double precision on the CPU wherever the model goes.

    Example:
        >>> held_out = HeldOut().fit([torch.arange(99.0)])
        >>> held_out.p_values(torch.tensor([0.0, 98.0, 98.5]), torch.zeros(3).long()).tolist()
        [1.0, 0.02, 0.01]
        >>> held_out.threshold(accept=0.9).ranks
        (90,)
    """

    kind = "held-out scores"
    knots: Tensor
    at_least: Tensor
    above: Tensor
    sizes: Tensor
    _steps: list[tuple[Tensor, Tensor]] | None = None

    def fit(self, groups: Sequence[Tensor]) -> Self:
        """Keeps known scores `[n]` of each group."""
        tables = [_table(scores.double().cpu()) for scores in groups]
        knots, at_least, above = (torch.cat(column) for column in zip(*tables, strict=True))
        sizes = torch.tensor([len(table[0]) for table in tables])
        self.keep(knots=knots, at_least=at_least, above=above, sizes=sizes)
        return self

    @property
    def fitted(self) -> bool:
        """Whether there are scores; models of older versions hold none."""
        return "knots" in self._buffers

    @property
    def counts(self) -> list[int]:
        """The scores there were of each group."""
        return [int(at_least[0]) for _, at_least, _ in self.groups()]

    def p_values(self, scores: Tensor, classes: Tensor) -> Tensor:
        """The share of known samples that look at least so strange, `[M]`.

        p = (1 + #{held-out ≥ s}) / (n + 1), of Vovk et al., 2005: known samples that are drawn as
        the held-out ones were have p ≤ α with a probability of at most α.

        Args:
            scores: `[M]`.
            classes: The predicted class `[M]` of each, which chooses the group if there are many.
        """
        scores = scores.detach().double().cpu().contiguous()
        steps = self.steps()
        if len(steps) == 1 or len(scores) == 1:
            return _look_up(steps[0 if len(steps) == 1 else int(classes)], scores)
        classes, found = classes.cpu(), torch.empty_like(scores)
        for c in classes.unique().tolist():
            mine = classes == c
            found[mine] = _look_up(steps[c], scores[mine])
        return found

    def steps(self) -> list[tuple[Tensor, Tensor]]:
        """p as a function of the score: its knots `[k]` of each group, and its values `[k + 1]`.

        They are made once. After a forward pass nothing of this is in the processor's caches, so
        what an image costs is how many things are touched, not how much is computed.
        """
        if self._steps is None:
            counted = [(k, torch.cat([least[:1], above])) for k, least, above in self.groups()]
            self._steps = [(k, (1 + below).double() / (1 + below[0])) for k, below in counted]
        return self._steps

    def keep(self, **learned: Tensor) -> None:
        super().keep(**learned)
        self._steps = None

    def values_at(self, p_value: float) -> Tensor:
        """The scores `[groups]` above which, and only above which, p is at most this.

        Infinite where the group has too few held-out samples for any p so small.
        """
        values = []
        for knots, at_least, above in self.groups():
            rare = (1 + above) / (1 + at_least[0].double()) <= p_value
            values.append(knots[rare][0] if bool(rare.any()) else knots.new_tensor(torch.inf))
        return torch.stack(values)

    def threshold(self, accept: float) -> Threshold:
        """The threshold that accepts this share, as `Threshold.conformal` of all scores or above.

        Raises:
            ValueError: If there are too few scores for the share.
        """
        check_accept(accept)
        return self._thresholds([accept])[0]

    def thresholds(self, shares: Sequence[float]) -> list[Threshold]:
        """The thresholds for several shares, without those that need more scores than there are."""
        odds = [share / (1 - share) for share in map(check_accept, shares)]
        enough = min(self.counts)
        return self._thresholds(
            [share for share, needed in zip(shares, odds, strict=True) if needed <= enough + 1e-9]
        )

    def _thresholds(self, shares: Sequence[float]) -> list[Threshold]:
        upper, lower = self.scores(upper=True), self.scores(upper=False)
        given = []
        for share in shares:
            found = Threshold.of_groups(upper, share, ROUNDING)
            pairs = zip(lower, found.values, strict=True)
            accepted = tuple(int((scores <= value).sum()) for scores, value in pairs)
            given.append(replace(found, accepted=accepted))
        return given

    def exact(self, accept: float) -> bool:
        """Whether `threshold` rests on the same held-out score that all of them would give.

        True of every whole percent, of every share where no group had more than `KNOTS` scores, and
        of the highest shares, whose scores are all kept.
        """
        upper, lower = self.scores(upper=True), self.scores(upper=False)
        ranks = self.threshold(accept).ranks
        return all(bool(u[k - 1] == w[k - 1]) for u, w, k in zip(upper, lower, ranks, strict=True))

    def accepted(self, threshold: float) -> float:
        """The share of the held-out samples at or below a threshold, at the least."""
        scores = torch.cat(self.scores(upper=True))
        return float((scores <= threshold).double().mean())

    def group(self, c: int) -> tuple[Tensor, Tensor, Tensor]:
        """The knots of a group, how many scores are at least as high, and how many higher."""
        stop = int(self.sizes[: c + 1].sum())
        part = slice(stop - int(self.sizes[c]), stop)
        return self.knots[part], self.at_least[part], self.above[part]

    def groups(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Those of each group."""
        return [self.group(c) for c in range(len(self.sizes))]

    def scores(self, *, upper: bool = True) -> list[Tensor]:
        """All scores of each group, ascending; one that was not kept is that of a neighbour.

        Args:
            upper: Whether that of the next higher one, or of the next lower.
        """
        found = []
        for knots, at_least, above in self.groups():
            zero = torch.zeros(1, dtype=torch.long)
            counts = (
                torch.cat([at_least[:1], above[:-1]]) - above
                if upper
                else at_least - torch.cat([at_least[1:], zero])
            )
            found.append(knots.repeat_interleave(counts))
        return found

    def _apply(self, *_: Any, **__: Any) -> Self:
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.fitted and not self._sound():
            raise ValueError("the held-out scores in it do not fit each other; fit the model again")

    def _sound(self) -> bool:
        if set(self._buffers) != {"knots", "at_least", "above", "sizes"}:
            return False
        whole = (self.at_least, self.above, self.sizes)
        if any(x.dtype != torch.long or x.dim() != 1 for x in whole):
            return False
        if not self.knots.shape == self.at_least.shape == self.above.shape:
            return False
        if self.knots.dtype != torch.double or not self.knots.isfinite().all():
            return False
        if not len(self.sizes) or self.sizes.min() < 1 or self.sizes.sum() != len(self.knots):
            return False
        ends = self.sizes.cumsum(0) - 1
        inside = torch.ones(len(self.knots), dtype=torch.bool)
        inside[ends] = False  # What follows the last of a group is another's.
        pairs = inside[:-1]
        rising = (self.knots.diff() > 0) & (self.above[:-1] >= self.at_least[1:])
        counted = (self.at_least > self.above).all() and (self.above >= 0).all()
        ended = (self.above[ends] == 0).all() and self.at_least.max() <= MOST
        return bool(rising[pairs].all() and counted and ended)


class PValues(nn.Module):
    """`HeldOut.p_values` as a graph, for an export: a search by halving over padded knots."""

    knots: Tensor
    p: Tensor

    def __init__(self, held_out: HeldOut):
        super().__init__()
        steps = held_out.steps()
        self.halvings = max(len(knots) for knots, _ in steps).bit_length()
        self.width = 2**self.halvings
        knots = [F.pad(own, (0, self.width - len(own)), value=torch.inf) for own, _ in steps]
        p = [F.pad(own, (0, self.width - len(own))) for _, own in steps]
        self.register_buffer("knots", torch.cat(knots))
        self.register_buffer("p", torch.cat(p))
        self.groups = len(steps)

    def forward(self, scores: Tensor, classes: Tensor) -> Tensor:
        """p-values `[M]` of scores `[M]`, in single precision."""
        start = classes * self.width if self.groups > 1 else torch.zeros_like(classes)
        place = start
        for i in reversed(range(self.halvings)):  # ONNX has no searchsorted.
            further = self.knots[place + 2**i - 1] < scores.double()
            place = torch.where(further, place + 2**i, place)
        return self.p[place].float()


def _look_up(steps: tuple[Tensor, Tensor], scores: Tensor) -> Tensor:
    knots, values = steps
    return values[torch.searchsorted(knots, scores)]


def _table(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct scores, ascending, with how many are at least as high and how many higher."""
    knots, counts = scores.unique(return_counts=True)
    at_least = counts.flip(0).cumsum(0).flip(0)
    above = at_least - counts
    n = len(scores)
    if len(knots) > KNOTS:
        # The score that accepts c percent is the first that c % of n + 1 do not exceed.
        ranks = torch.tensor([-(-(n + 1) * c // PERCENTS) for c in range(1, PERCENTS)])
        percents = torch.searchsorted(n - above, ranks.clamp(max=n))
        rare = evenly_rare(-((1 + at_least) / (n + 1)).log(), KNOTS - PERCENTS)
        chosen = torch.cat([percents, rare]).unique()
        knots, at_least, above = knots[chosen], at_least[chosen], above[chosen]
    return knots, at_least, above
