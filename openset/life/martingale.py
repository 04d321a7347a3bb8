"""Is a stream of scores still drawn as the held-out ones were? A bet whose winnings say so."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from openset.scoring.held_out import PERCENTS, HeldOut

TOP = 40
"""Highest held-out scores that are edges of bins, beside those at whole percents."""

CHUNK = 2048
"""Images whose counts are worked on at once."""

WAIT = 100
"""Images after which half of the reserve is in play."""

Floats = np.ndarray


class Urn:
    """p-values of a stream against held-out scores that grow by the stream itself.

    Against a *fixed* sample the p-values of one stream are not independent: all share what that
    sample happened to be, and a long stream shows it. So each score is compared with the held-out
    ones *and* those that came before it. Then, if all are exchangeable, smoothed p-values are
    independent and uniform on 0…1: Vovk et al., 2005, https://doi.org/10.1007/b106715, chapter 8.

    Scores are put into bins whose edges are held-out scores of fixed ranks: whole percents and the
    `TOP` highest, which `HeldOut` keeps however many there were. A bin that spans w of the n + 1
    gaps between n held-out scores gets the next score with probability (w + m) / (n + 1 + i), where
    i scores came before and m of them into it (Pólya's urn). What must be kept of a stream is
    therefore one count a bin. Equal scores are told apart by a random digit behind their last one.

    Args:
        held_out: The scores of a model.
        group: The group of held-out scores: 0, or the predicted class.
        seed: Seed of the random digits of the held-out scores.
        arrivals: Scores of the stream so far in each bin; none by default.
    """

    def __init__(
        self, held_out: HeldOut, group: int = 0, seed: int = 0, arrivals: Floats | None = None
    ):
        knots, at_least, above = (x.numpy() for x in held_out.group(group))
        n = int(at_least[0])
        percents = -(-(n + 1) * np.arange(1, PERCENTS) // PERCENTS)
        ranks = np.unique(np.concatenate([percents, np.arange(n - TOP, n) + 1]).clip(1, n))
        place = np.searchsorted(n - above, ranks)
        self.values = knots[place]
        copy = ranks - (n - at_least[place])
        copies = at_least[place] - above[place]
        draw = np.random.default_rng([seed, group])
        self.digits = _ordered_digits(place, copy, copies, draw)
        self.weights = np.diff(np.concatenate([[0], ranks, [n + 1]])).astype(float)
        self.arrivals = np.zeros(len(self.weights)) if arrivals is None else arrivals

    def p_values(self, scores: Floats, digits: Floats, smoothing: Floats) -> Floats:
        """p-values `[n]` of the next scores, in their order; small = strange.

        Args:
            scores: `[n]`.
            digits: Uniform random numbers `[n]` that tell equal scores apart.
            smoothing: Uniform random numbers `[n]` that place a score within its bin.
        """
        parts = range(0, len(scores), CHUNK)
        found = [
            self._next(scores[i : i + CHUNK], digits[i : i + CHUNK], smoothing[i : i + CHUNK])
            for i in parts
        ]
        return np.concatenate([np.empty(0), *found])

    def _next(self, scores: Floats, digits: Floats, smoothing: Floats) -> Floats:
        bins = self._bins(scores, digits)
        came = np.zeros((len(bins) + 1, len(self.weights)))
        came[np.arange(len(bins)) + 1, bins] = 1
        counts = self.weights + self.arrivals + came.cumsum(0)
        self.arrivals = counts[-1] - self.weights
        before, rows = counts[:-1], np.arange(len(bins))
        own, total = before[rows, bins], before.sum(1)
        above = total - before.cumsum(1)[rows, bins]
        return (above + smoothing * own) / total

    def _bins(self, scores: Floats, digits: Floats) -> Floats:
        """Counts the edges below each score; equal ones by their digits."""
        low, high = (np.searchsorted(self.values, scores, side) for side in ("left", "right"))
        bins = low.copy()
        for i in np.flatnonzero(high > low):
            bins[i] += np.searchsorted(self.digits[low[i] : high[i]], digits[i])
        return bins


def _ordered_digits(place: Floats, copy: Floats, copies: Floats, draw) -> Floats:
    """Random digits of edges: of c equal scores, the i-th smallest of c uniform numbers."""
    found = np.empty(len(place))
    for value in np.unique(place):
        own = np.flatnonzero(place == value)
        steps = np.diff(np.concatenate([[0], copy[own], [copies[own[0]] + 1]]))
        shares = draw.gamma(steps)
        found[own] = shares.cumsum()[:-1] / shares.sum()
    return found


def _power(share: float, p: Floats) -> Floats:
    """The logarithm of the density share · p^(share − 1)."""
    return np.log(share) + (share - 1) * np.log(np.maximum(p, np.finfo(float).tiny))


def log_bets(p: Floats) -> Floats:
    """Logarithms of what each bet pays for p-values `[n]`, `[n, bets]`; each is fair on average.

    Three on many small p-values, from a few very strange images to many slightly strange ones; one
    on many large ones, images more alike than usual; and Vovk's two of the simple jumper, on the
    mean.
    """
    bets = [_power(share, p) for share in (0.5, 0.75, 0.9)]
    bets += [_power(0.75, 1 - p), np.log(1.5 - p), np.log(0.5 + p)]
    return np.stack(bets, axis=1)


BETS = log_bets(np.ones(1)).shape[1]


@dataclass
class Martingale:
    """The winnings of a mixture of bets against uniform p-values, which start at 1.

    Without drift it is a martingale, so the probability that it ever exceeds 1 / α is at most α
    (Ville, 1939). Half of it is in play from the start and the rest comes in little by little, so
    that a late change is noticed too: what has not been bet is not lost. After Vovk et al., 2021,
    "Retrain or not retrain: conformal test martingales for change-point detection",
    https://arxiv.org/abs/2102.10439.

    Args:
        count: p-values so far.
        active: Logarithm of each bet's winnings.

    Example:
        >>> winnings = Martingale()
        >>> float(np.exp(winnings.add(np.full(30, 0.01))[-1])) > 1000
        True
    """

    count: int = 0
    active: Floats = field(default_factory=lambda: np.full(BETS, np.log(0.5 / BETS)))

    def add(self, p: Floats) -> Floats:
        """The logarithm of the winnings after each of the next p-values `[n]`."""
        if not len(p):
            return np.empty(0)
        pays = log_bets(p)
        steps = self.count + np.arange(len(p) + 1)
        reserve = 0.5 * WAIT / (WAIT + steps)
        joins = np.log((reserve[:-1] - reserve[1:]) / BETS)[:, None]
        paid = pays.cumsum(0)
        # Each part that joins at some step wins what is paid from that step on.
        entries = np.concatenate([self.active[None], joins - (paid - pays)])
        active = paid + np.logaddexp.accumulate(entries, axis=0)[1:]
        self.count, self.active = self.count + len(p), active[-1]
        return np.logaddexp(np.log(reserve[1:]), np.logaddexp.reduce(active, axis=1))
