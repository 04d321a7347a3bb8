"""How well detectors would do, estimated without a single unknown image."""

from __future__ import annotations

import csv
import io
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from rich.table import Table
from torch import Tensor

from openset.activations import EveryNth
from openset.data import batches
from openset.data.loaders import per_pixel
from openset.data.stand_ins import FAR, KINDS, NEAR, StandIns
from openset.model.open_set import OpenSet
from openset.scoring.answers import answers
from openset.scoring.views import tap_for

MOST = 1500
"""Images that are compared, at most, of the known and of each kind."""

BATCH = 250

DRAWS = 2000
"""Draws of kinds and of errors that the chances rest on."""

LEAST = 10
"""Known images that are needed."""


@dataclass(frozen=True)
class Rehearsal:
    """Detectors against stand-ins for unknown images, made of known ones.

    Args:
        detectors: Their names.
        kinds: Names of the kinds of stand-ins.
        auroc: The chance `[detectors, kinds]` that a stand-in scores higher than a known image.
        deviation: The standard error of each, from the images alone.
        p_value: The median p-value of each kind among the known images.
        images: The known images and the stand-ins of a kind.
    """

    detectors: list[str]
    kinds: list[str]
    auroc: np.ndarray
    deviation: np.ndarray
    p_value: np.ndarray
    images: tuple[int, int]

    @property
    def expected(self) -> np.ndarray:
        """The mean AUROC `[detectors]`, near and far kinds with equal parts."""
        return _expected(self.auroc, self.kinds)

    @property
    def near(self) -> np.ndarray:
        """The mean AUROC `[detectors]` over the near kinds; NaN if there is none."""
        return _part(self.auroc, self.kinds, NEAR)

    @property
    def far(self) -> np.ndarray:
        """The mean AUROC `[detectors]` over the far kinds; NaN if there is none."""
        return _part(self.auroc, self.kinds, FAR)

    @property
    def best(self) -> str:
        """The recommended detector: the one with the highest expected AUROC."""
        return self.detectors[int(self.expected.argmax())]

    def chances(self, seed: int = 0) -> np.ndarray:
        """How often each would be the best, `[detectors]`, had other kinds and images been drawn.

        The far kinds are drawn again with repetition, and each AUROC gets its standard error.
        """
        random = np.random.default_rng(seed)
        far = np.flatnonzero([kind in FAR for kind in self.kinds])
        near = np.flatnonzero([kind in NEAR for kind in self.kinds])
        wins = np.zeros(len(self.detectors))
        for _ in range(DRAWS):
            chosen = np.concatenate([random.choice(far, len(far)) if len(far) else far, near])
            kinds = [self.kinds[i] for i in chosen]
            drawn = self.auroc + self.deviation * random.standard_normal(self.auroc.shape)
            wins[_expected(drawn[:, chosen], kinds).argmax()] += 1
        return wins / DRAWS

    def recommendation(self) -> str:
        """The best detector and how sure that is, in a sentence."""
        order = self.expected.argsort()[::-1]
        best, chance = order[0], self.chances()[order[0]]
        said = f"take {self.best}: expected AUROC {self.expected[best]:.3f}"
        if len(order) == 1:
            return said
        second = order[1]
        return (
            f"{said}, {self.detectors[second]} {self.expected[second]:.3f}; "
            f"best in {chance:.0%} of draws of other kinds and images"
        )

    def table(self) -> Table:
        """AUROC by kind, the highest expected one first, for the screen."""
        title = f"{self.images[0]} known images, {self.images[1]} of each kind"
        table = Table("detector", *self.kinds, "near", "far", "expected", "best in", title=title)
        chances, near, far = self.chances(), self.near, self.far
        for i in self.expected.argsort()[::-1]:
            pairs = zip(self.auroc[i], self.deviation[i], strict=True)
            cells = [f"{value:.3f} ± {error:.3f}" for value, error in pairs]
            means = [f"{x:.3f}" for x in (near[i], far[i], self.expected[i])]
            table.add_row(self.detectors[i], *cells, *means, f"{chances[i]:.0%}")
        return table

    def csv(self) -> str:
        """A line for each detector and kind."""
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["detector", "kind", "group", "auroc", "deviation", "p_value"])
        for i, detector in enumerate(self.detectors):
            for j, kind in enumerate(self.kinds):
                figures = (x[i, j] for x in (self.auroc, self.deviation, self.p_value))
                group = "near" if kind in NEAR else "far"
                table.writerow([detector, kind, group, *(f"{x:.6f}" for x in figures)])
        return out.getvalue()


def rehearse(
    models: Mapping[str, OpenSet],
    held_out: Any,
    kinds: Iterable[str] = tuple(KINDS),
    *,
    seed: int = 0,
) -> Rehearsal:
    """Measures models on held-out known images against stand-ins made from other held-out ones.

    No unknown image is needed. Known are every other of the held-out images, those that set a
    model's threshold; stand-ins are made from the rest, from which a detector may have learned its
    ranks. What it cannot foresee is how near your unknown images are.

    Args:
        models: By the names of their detectors, on one network, as `fit` gives them.
        held_out: The held-out known images that the models were calibrated on, in their order.
        kinds: Kinds of stand-ins, names in `openset.data.stand_ins.KINDS`.
        seed: Seed of what the kinds draw.

    Raises:
        ValueError: For pixels, for too few images, and for kinds that do not exist.

    Example:
        >>> import torch
        >>> from openset.detectors import GEN, Energy
        >>> from openset.model.fit import fit
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
        >>> images = [(torch.rand(80, 1, 8, 8), torch.arange(80) % 2)]
        >>> models = fit(network, {"energy": Energy(), "gen": GEN()}, images, images, accept=0.5)
        >>> rehearse(models, images, ["noisy", "turned"]).auroc.shape
        (2, 2)
    """
    if per_pixel(held_out):
        raise ValueError("a rehearsal judges whole images; these label pixels")
    known, others = (_Some(held_out, start) for start in (1, 0))
    first = next(iter(models.values()))
    detectors = {name: model.detector for name, model in models.items()}
    tap = tap_for(first.tap.network, detectors.values(), head=first.tap.head)

    def scores(source: Any) -> dict[str, np.ndarray]:
        found: dict[str, list[Tensor]] = {name: [] for name in models}
        for answer in answers(tap, detectors, source):
            found[answer.detector].append(answer.scored.score)
        return {name: np.concatenate(parts) for name, parts in found.items() if parts}

    usual = scores(known)
    if not usual or min(map(len, usual.values())) < LEAST:
        raise ValueError(f"a rehearsal needs at least {2 * LEAST} held-out known images; give more")
    names, kinds = list(models), list(kinds)
    strange = [scores(StandIns(others, kind, seed)) for kind in kinds]
    cells = [[compare(usual[name], each[name]) for each in strange] for name in names]
    figures = np.moveaxis(np.array(cells), 2, 0)
    counts = len(usual[names[0]]), len(strange[0][names[0]])
    return Rehearsal(names, kinds, *figures, images=counts)


def compare(known: np.ndarray, strange: np.ndarray) -> tuple[float, float, float]:
    """AUROC, its standard error (DeLong et al., 1988) and the median p-value of what is strange."""
    above, p = _placements(known, strange), 1 - _placements(known, strange, ties=0.0)
    below = _placements(strange, known)
    variance = above.var(ddof=1) / len(strange) + below.var(ddof=1) / len(known)
    p_value = np.median((1 + p * len(known)) / (len(known) + 1))
    return float(above.mean()), float(np.sqrt(variance)), float(p_value)


def _placements(among: np.ndarray, scores: np.ndarray, ties: float = 0.5) -> np.ndarray:
    """The share of `among` below each score; equal ones count by `ties`."""
    ordered = np.sort(among)
    low, high = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    return (low + ties * (high - low)) / len(among)


def _part(auroc: np.ndarray, kinds: list[str], group: Container[str]) -> np.ndarray:
    """The mean over the kinds of a group; NaN if there is none."""
    mask = [kind in group for kind in kinds]
    return auroc[:, mask].mean(1) if any(mask) else np.full(len(auroc), np.nan)


def _expected(auroc: np.ndarray, kinds: list[str]) -> np.ndarray:
    """The mean of the near kinds' mean and of the far ones'."""
    return np.nanmean([_part(auroc, kinds, group) for group in (NEAR, FAR)], axis=0)


class _Some:
    """Every other image of a source, `MOST` at most, batch by batch."""

    def __init__(self, source: Any, start: int):
        self.source, self.start = source, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        every = EveryNth(batches(self.source, 2 * BATCH), 2, self.start)
        yield from islice(every, MOST // BATCH)
