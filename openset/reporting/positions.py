"""The positions of the page's slider: shares to accept, their thresholds and their promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

import torch

from openset.scoring.held_out import HeldOut
from openset.scoring.scored import Scored, Thresholds
from openset.scoring.threshold import ThresholdRecord, strays

SHARES = (*(i / 100 for i in range(1, 100)), *(0.99 + i / 1000 for i in range(1, 10)))
"""Shares of known samples to accept: whole percents, and tenths above the last."""


COARSE = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995)
"""The shares where every class has a threshold of its own and there are many."""


MANY = 50
"""Classes from which on the shares are `COARSE`."""


@dataclass(frozen=True)
class Position:
    """One position of the slider.

    Args:
        accept: The share of known samples to accept.
        values: The threshold, or one for each class.
        interval: The promised share of future known samples; None if nothing is promised.
        strays: Whether the test samples contradict it by more than chance.
    """

    accept: float
    values: list[float]
    interval: tuple[float, float] | None = None
    strays: bool = False


def positions(
    known: Scored, record: ThresholdRecord | None, held_out: HeldOut | None
) -> list[Position]:
    """The slider's positions, by ascending share; the model's own threshold is among them.

    The thresholds rest on the held-out scores. Where none were kept, they rest on the known test
    samples themselves, so that nothing can be promised of any but the model's own.
    """
    own = (record or {}).get("accept")
    many = held_out is not None and held_out.fitted and len(held_out.counts) > MANY
    shares = {*(COARSE if many else SHARES), *([] if own is None else [own])}
    found = {p.accept: p for p in _found(known, sorted(shares), held_out)}
    if record is not None and own is not None and "value" in record:
        found[own] = _checked(own, record["value"], record.get("interval"), known)
    wide = max((len(each.values) for each in found.values()), default=1)
    return [
        replace(each, values=each.values * (wide // len(each.values)))
        for _, each in sorted(found.items())
    ]


def _found(known: Scored, shares: list[float], held_out: HeldOut | None) -> Iterator[Position]:
    if held_out is not None and held_out.fitted:
        for each in held_out.thresholds(shares):
            yield _checked(each.accept, list(each.values), each.coverage, known)
        return
    ordered = known.score.double().sort().values.tolist()
    for share in shares if ordered else []:
        yield Position(share, [ordered[ceil(len(ordered) * share - 1e-9) - 1]])


def _checked(
    accept: float, value: Thresholds, interval: tuple[float, float] | None, known: Scored
) -> Position:
    """A position with a promise, held against the known test samples."""
    values = torch.as_tensor(value, dtype=torch.float64).flatten().tolist()
    if interval is None:
        return Position(accept, values)
    one = values[0] if len(values) == 1 else values
    accepted = len(known) - int(known.rejected(one).sum())
    low, high = interval
    return Position(accept, values, (low, high), strays(accepted, len(known), (low, high)))
