"""Watches the answers of a model in use: is the stream still what the model knows?"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch

from openset.files import complete_file, digest_of, read_json, sealed_json
from openset.life.martingale import BETS, Martingale, Urn
from openset.model.open_set import OpenSet
from openset.model.records import read
from openset.scoring.held_out import HeldOut
from openset.scoring.threshold import percent
from openset.spec import call

BLOCK, BLOCKS = 25, 100
"""Images of a block of the course at first, and blocks kept; of more, two are made one."""

MOST_PAID = 400
"""The logarithm of what a bet pays for one image is smaller, as the smallest p is no smaller."""


@dataclass
class State:
    """All that is kept of a stream, as the state's file holds it.

    Args:
        format: The version of this description.
        model: Digest of the held-out scores that the stream is compared with.
        alarm: The probability of a false alarm, ever.
        seed: Seed of the random numbers.
        count: Images so far.
        arrivals: Per group of held-out scores, the scores of the stream in each bin (`Urn`).
        active: Logarithm of each bet's winnings (`Martingale`).
        first: The image, counted from 1, at which the alarm sounded; None before.
        highest: Logarithm of the highest winnings so far.
        block: Images in each block but the last.
        course: Per block, in their order: images and unknown ones by nearest class, and the
            logarithm of the winnings at its end.
        files: Names of the files that were read, by the digest of each.
    """

    format: Literal[1]
    model: str
    alarm: float
    seed: int
    count: int = 0
    arrivals: list[list[float]] = field(default_factory=list)
    active: list[float] = field(default_factory=list)
    first: int | None = None
    highest: float = 0.0
    block: int = BLOCK
    course: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


class Monitor:
    """Says from a model's answers, as they come, whether the images are still like the held-out.

    An alarm that may be watched all the time: while the images are drawn as the held-out known ones
    were, the probability that it ever sounds is at most `alarm`. It bets on the p-values of the
    scores (`Urn`, `Martingale`) and sounds where it would have won 1 / `alarm` times its stake.
    Beside it stands the share of unknown images, which the threshold alone makes 1 − accept.

    A model with a threshold per class compares each score with those of its predicted class, so
    that other shares of the classes are no drift; all others notice those too.

    Args:
        model: A calibrated model.
        alarm: The probability of a false alarm, ever.
        seed: Seed of the random numbers that break ties.

    Example:
        >>> from torch import nn
        >>> from openset import Tap
        >>> from openset.detectors import Energy
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> model = OpenSet(Tap(network), Energy(), classes=["a", "b", "c"])
        >>> model = model.calibrate([(torch.rand(200, 1, 8, 8), torch.arange(200) % 3)])
        >>> monitor = Monitor(model)
        >>> monitor.add([a.record() for a in model.predict(torch.rand(100, 1, 8, 8))])
        >>> monitor.state.count, monitor.state.first
        (100, None)
        >>> monitor.add([a.record() for a in model.predict(torch.zeros(100, 1, 8, 8))])
        >>> monitor.state.first > 100
        True
    """

    def __init__(self, model: OpenSet, alarm: float = 0.01, seed: int = 0):
        if not model.held_out.fitted:
            raise ValueError("this model holds no held-out scores to compare with; fit it again")
        if not 0 < alarm < 1:
            raise ValueError(f"alarm must lie between 0 and 1; got {alarm}; give such as 0.01")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}; give a whole number of 0 or more, below 2^63")
        self.model = model
        self.state = State(1, _digest(model.held_out), alarm, seed)
        self._restore()

    def _restore(self) -> None:
        """Makes the parts that go on from the state."""
        state, groups = self.state, len(self.model.held_out.sizes)
        self.urns = [Urn(self.model.held_out, c, state.seed) for c in range(groups)]
        for urn, arrivals in zip(self.urns, state.arrivals, strict=bool(state.arrivals)):
            if len(arrivals) != len(urn.weights):
                raise ValueError("its counts do not fit the model's held-out scores")
            urn.arrivals = np.array(arrivals)
        self.winnings = Martingale(state.count)
        if state.active:
            if len(state.active) != BETS:
                raise ValueError(f"it holds {len(state.active)} bets; expected {BETS}")
            self.winnings.active = np.array(state.active)

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Takes in further answers, in the order of the images, as `Answer.record` gives them.

        Raises:
            ValueError: If they are no answers of this model.
        """
        scores, nearest, names = self._checked(records)
        p_values = np.empty(len(scores))
        draw = np.random.Generator(np.random.PCG64(self.state.seed).advance(2 * self.state.count))
        chance = draw.random((len(scores), 2))
        groups = nearest if len(self.urns) > 1 else np.zeros_like(nearest)
        for c, urn in enumerate(self.urns):
            own = groups == c
            p_values[own] = urn.p_values(scores[own], *chance[own].T)
        course = self.winnings.add(p_values)
        above = np.flatnonzero(course >= -np.log(self.state.alarm))
        if self.state.first is None and len(above):
            self.state.first = self.state.count + int(above[0]) + 1
        self.state.highest = float(max(self.state.highest, *course, -np.inf))
        self._add_to_course(names, course)
        self.state.count += len(scores)
        self.state.arrivals = [urn.arrivals.tolist() for urn in self.urns]
        self.state.active = self.winnings.active.tolist()

    def _checked(
        self, records: Sequence[Mapping[str, Any]]
    ) -> tuple[np.ndarray, np.ndarray, list[tuple[str, bool]]]:
        """Scores `[n]` and nearest classes `[n]` of answers, if they are of this model.

        And the nearest class of each by name, with whether it is called unknown.
        """
        try:
            names = [(record["nearest"], record["label"] == "unknown") for record in records]
            places = self._places({name for name, _ in names})
            scores = np.array([float(record["score"]) for record in records])
            nearest = np.array([places[name] for name, _ in names], dtype=int)
            told = np.array([float(record["p_value"]) for record in records])
            near = torch.from_numpy(nearest)
            own = self.model.held_out.p_values(torch.from_numpy(scores), near).numpy()
            if not np.isfinite(scores).all():
                raise ValueError("a score is not finite")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"these are no answers of this model, as openset predict writes them: {error}"
            ) from error
        if not np.allclose(own, told, atol=1e-6):
            raise ValueError(
                "the p-values are not those of this model; name the model that gave these answers"
            )
        return scores, nearest, names

    def _places(self, names: Collection[str]) -> dict[str, int]:
        """The class of each name; a model without names gives numbers instead."""
        if self.model.classes is None:
            return {name: int(name) for name in names}
        return {name: c for c, name in enumerate(self.model.classes)}

    def _add_to_course(self, names: Sequence[tuple[str, bool]], course: np.ndarray) -> None:
        for i, (nearest, unknown) in enumerate(names):
            if (self.state.count + i) % self.state.block == 0:
                self.state.course.append({"classes": {}, "winnings": 0.0})
            last = self.state.course[-1]
            counts = last["classes"].setdefault(nearest, [0, 0])
            counts[0] += 1
            counts[1] += unknown
            last["winnings"] = float(course[i])
            if len(self.state.course) > BLOCKS:
                self._halve(self.state.count + i + 1)

    def _halve(self, count: int) -> None:
        """Makes one block of two, where the last is just begun."""
        assert len(self.state.course) % 2, "the number of blocks kept is even"
        *whole, last = self.state.course
        pairs = list(zip(whole[::2], whole[1::2], strict=True))
        self.state.course = [
            {"classes": totals([one, other]), "winnings": other["winnings"]} for one, other in pairs
        ]
        self.state.course.append(last)
        self.state.block *= 2

    def read(self, files: Sequence[Path], *, shuffle: bool = False) -> None:
        """Takes in files of answers, in their order; each once.

        Args:
            files: As `openset predict --out` writes them.
            shuffle: Whether to draw the order of each file's images, which else must be that of
                time: where they lie sorted, class after class, the order alone is an alarm.

        Raises:
            ValueError: For a file that was taken in before, or that holds no answers of this model.
        """
        for file in files:
            digest = digest_of(file)
            if digest in self.state.files:
                raise ValueError(f"{file} was taken in before, as {self.state.files[digest]}")
            records = read(file)
            if shuffle:
                draw = np.random.default_rng([self.state.seed, self.state.count])
                records = [records[i] for i in draw.permutation(len(records))]
            self.add(records)
            self.state.files[digest] = str(file)

    def shares(self) -> dict[str, tuple[int, int]]:
        """Images, and unknown ones, by nearest class, in the order of the classes."""
        found = totals(self.state.course)
        names = self.model.classes or sorted(found, key=int)
        return {name: (found[name][0], found[name][1]) for name in names if name in found}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state as a small JSON file, complete or absent."""
        with complete_file(path) as partial:
            partial.write_text(sealed_json(asdict(self.state)), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: OpenSet) -> Self:
        """Goes on from a state that `save` wrote, with the model that it is about.

        Raises:
            ValueError: For a file that is damaged or about another model.
        """
        try:
            state = call("the state", State, read_json(Path(path)))
            monitor = cls(model, state.alarm, state.seed)
            if state.model != monitor.state.model:
                raise ValueError("it is about another model, or one that was fitted since")
            if not sound(state, monitor.model.classes):
                raise ValueError("its counts do not fit each other")
            monitor.state = state
            monitor._restore()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} cannot be gone on with: {error}") from error
        return monitor

    def said(self) -> list[str]:
        """What the stream shows and what is promised, in lines."""
        state, threshold = self.state, self.model.threshold
        money = f"a stake of 1 has become {money_of(self._last())}, at the most "
        money += f"{money_of(state.highest)}; the alarm is at {1 / state.alarm:.3g}"
        verdict = (
            f"no alarm in {state.count} images"
            if state.first is None
            else f"ALARM: since image {state.first} of {state.count} the stream is not what the "
            "model knows"
        )
        doubt = None if threshold is None else threshold.doubt
        n = sum(self.model.held_out.counts)
        promise = (
            f"While the images are drawn as the {n} held-out known ones were, each by itself, the "
            f"probability that the alarm ever sounds is at most {percent(state.alarm)}."
            if doubt is None
            else f"No guarantee holds: {doubt}."
        )
        return [f"{verdict}: {money}.", promise]

    def _last(self) -> float:
        return self.state.course[-1]["winnings"] if self.state.course else 0.0


def totals(blocks: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Images and unknown ones by nearest class, of several blocks."""
    found: dict[str, list[int]] = {}
    for block in blocks:
        for name, (images, unknown) in block["classes"].items():
            counts = found.setdefault(name, [0, 0])
            counts[0], counts[1] = counts[0] + images, counts[1] + unknown
    return found


def sound(state: State, names: Sequence[str] | None) -> bool:
    """Whether what is kept of a stream can be: its counts fit each other, and its numbers them."""
    shares = [counts for block in state.course for counts in block["classes"].values()]
    images = [sum(n for n, _ in block["classes"].values()) for block in state.course]
    found = {name for block in state.course for name in block["classes"]}
    logs = [*state.active, state.highest, *(block["winnings"] for block in state.course)]
    return (
        state.block > 0
        and len(images) <= BLOCKS
        and images[:-1] == [state.block] * len(images[:-1])
        and max(images, default=0) <= state.block
        and state.count == sum(images) == sum(map(sum, state.arrivals))
        and min(map(min, state.arrivals), default=0) >= 0
        and (state.first is None or 0 < state.first <= state.count)
        and all(0 <= unknown <= n for n, unknown in shares)
        and (names is None or found <= {*names})
        and max(map(abs, logs)) <= MOST_PAID * (1 + state.count)
    )


def money_of(winnings: float) -> str:
    """Winnings as text, from their logarithm; those of a long drift are beyond any float.

    Example:
        >>> money_of(0.0), money_of(5000.0)
        ('1', '2.97e+2171')
    """
    power = int(winnings // np.log(10))
    if abs(power) < 300:
        return f"{np.exp(winnings):.3g}"
    return f"{np.exp(winnings - power * np.log(10)):.3g}e{power:+}"


def interval(unknown: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share, for images that come each by itself: Clopper & Pearson, 1934.

    Example:
        >>> tuple(round(end, 3) for end in interval(0, 100))
        (0.0, 0.036)
    """
    from scipy.special import betaincinv  # Slow to import.

    low = betaincinv(unknown, images - unknown + 1, 0.025) if unknown else 0.0
    high = betaincinv(unknown + 1, images - unknown, 0.975) if unknown < images else 1.0
    return float(low), float(high)


def _digest(held_out: HeldOut) -> str:
    parts = [x.numpy().tobytes() for _, x in sorted(held_out.state_dict().items())]
    return sha256(b"".join(parts)).hexdigest()
