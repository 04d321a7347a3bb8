"""A detector's settings chosen on validation data, which every result is then named after."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.table import Table
from torch.nn import functional as F

from openset.activations import concatenate
from openset.data import ImageSet
from openset.data.sources import same_name
from openset.detectors import Detector
from openset.detectors.rows import known as known_rows
from openset.errors import unknown_name
from openset.evaluation.metrics import fpr_at_95_tpr
from openset.extractors.tap import Tap
from openset.model.open_set import OpenSet
from openset.model.validation import Validation, some_pixels
from openset.spec import check_kinds

Grid = Mapping[str, Sequence[Any]]


Point = dict[str, Any]


GRID: Grid = {
    "temperature": (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0),
    "epsilon": tuple(round(0.0002 * i, 4) for i in range(21)),
}
"""The values that ODIN's authors search: 10 temperatures, and 21 steps ε from 0 to 0.004."""


MEASURES = {"fpr_at_95_tpr": min, "nll": min, "mean_score_drop": max}
"""Measures that decide between settings, each with the function that picks its best value."""


@dataclass(frozen=True)
class Tuned:
    """The best settings that tuning found, and the data that the choice rests on.

    Args:
        detector: The detector with the best settings; its fit is that of the one given. It carries
            `tuned_on` into every result and saved model.
        settings: The best settings by name.
        figures: One entry per grid point: its settings, and the measure by its name.
        tuned_on: The names of all data sets that the choice rests on.
    """

    detector: Detector
    settings: Point
    figures: list[dict[str, Any]]
    tuned_on: tuple[str, ...]

    def table(self, count: int = 10) -> Table:
        """The best grid points for the screen, by each measure that decided."""
        names = list(dict.fromkeys(key for figure in self.figures for key in figure))
        table = Table(*names, title=f"the best of {len(self.figures)} settings")
        for measure in (name for name in names if name in MEASURES):
            have = [figure for figure in self.figures if measure in figure]
            have.sort(key=lambda figure: figure[measure], reverse=MEASURES[measure] is max)
            for figure in have[:count]:
                table.add_row(*(f"{figure[name]:.6g}" if name in figure else "" for name in names))
            table.add_section()
        return table


def tune(
    detector: Detector,
    grid: Grid | None = None,
    *,
    known: Any,
    unknown: Any,
    tap: Tap | None = None,
    tested_on: Sequence[str] = (),
    allow_leak: bool = False,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> Tuned:
    """Chooses the settings under which fewest unknown images pass where 95 % of the known do.

    Every combination in the grid is tried, and `fpr_at_95_tpr` on the validation data decides; of
    equals the first wins. Settings that act when scoring can be tuned, such as a temperature or the
    length of an input step; the detector is not fitted again. What needs no second look at the
    image costs one pass in all; a step costs one gradient for each combination of the other
    settings and one pass for each length.

    Paper: Sreeramdass & Sarawagi, *Out-of-Distribution Image Detection with Deep Neural Networks*,
    §5.3, after ODIN, https://arxiv.org/abs/1706.02690.

    Args:
        detector: Fitted, if it learns anything.
        grid: Setting to the values to try; by default those of `GRID` that the detector has.
        known: Held-out images of known classes, or their activations; never training images.
        unknown: Unknown images, or several such sets by name. Without a name of its own, a set
            must be given as `{name: images}`. With several, each image counts the same.
        tap: Reads the network; None if known and unknown are activations.
        tested_on: Names of the unknown sets that results will be reported on.
        allow_leak: Whether the sets to be tested on may be tuned on.
        limit: Take a random sample of so many images of each set; None takes all.
        seed: Decides that sample.
        batch_size: Images per pass.

    Raises:
        ValueError: If an unknown set is one of `tested_on`, or a setting does not exist.

    Example:
        >>> from openset import Activations
        >>> from openset.detectors import MaxSoftmax
        >>> known = [Activations(torch.tensor([[9.0, 8.0, 0.0], [8.0, 9.0, 0.0]]))]
        >>> unknown = {"noise": [Activations(torch.tensor([[5.0, 4.0, 4.0], [4.0, 5.0, 4.0]]))]}
        >>> tuned = tune(MaxSoftmax(), {"temperature": (1, 20)}, known=known, unknown=unknown)
        >>> tuned.settings, tuned.tuned_on
        ({'temperature': 1}, ('known', 'noise'))
    """
    sets = unknown if isinstance(unknown, Mapping) else {_name(unknown): unknown}
    if not allow_leak:
        refuse_leak(sets, tested_on)
    source = Validation(tap, batch_size, limit, seed)
    values = _values(detector, grid)
    points = [
        dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())
    ]
    candidates = [_changed(detector, point) for point in points]
    low = source.scores(candidates, known)
    others = [source.scores(candidates, images, unknown=True) for images in sets.values()]
    high = [torch.cat(each) for each in zip(*others, strict=True)]
    rates = [fpr_at_95_tpr(k, u) for k, u in zip(low, high, strict=True)]
    return _best(detector, points, "fpr_at_95_tpr", rates, (_name(known, "known"), *sets))


def tune_model(
    model: OpenSet,
    held_out: ImageSet,
    unknown: Mapping[str, Any] | None = None,
    grid: Grid | None = None,
    *,
    accept: float = 0.95,
    tested_on: Sequence[str] = (),
    allow_leak: bool = False,
    limit: int | None = None,
    seed: int = 0,
) -> tuple[OpenSet, Tuned]:
    """Tunes the detector of a model and sets its threshold anew.

    Every other held-out known image serves the choice and the rest the threshold, which keeps the
    threshold's guarantee.

    Args:
        model: With a fitted detector.
        held_out: Known images with labels that the network was not trained on.
        unknown: Unknown sets by name, for `tune`; without any, `tune_on_known` decides.
        grid: As in `tune`.
        accept: The share of known images to accept.
        tested_on: As in `tune`.
        allow_leak: As in `tune`.
        limit: As in `tune`.
        seed: As in `tune`.
    """
    count = len(held_out)
    choosing = held_out.subset(range(0, count, 2), f"{held_out.name} (held out)")
    settings: dict[str, Any] = {"known": choosing, "tap": model.tap, "limit": limit, "seed": seed}
    if unknown:
        settings |= {"tested_on": tested_on, "allow_leak": allow_leak}
        tuned = tune(model.detector, grid, unknown=unknown, **settings)
    else:
        tuned = tune_on_known(model.detector, grid, **settings)
    found = OpenSet(model.tap, tuned.detector, None, model.classes, model.adapter)
    rest = held_out.subset(range(1, count, 2))
    # What learns from held-out data has done so from those that serve the choice.
    return found.calibrate(rest, accept, adjust=False), tuned


def refuse_leak(tuned_on: Iterable[str], tested_on: Iterable[str]) -> None:
    """Raises for unknown data that serve both to tune and to test.

    Two names of one data set and split are the same, whatever the sample drawn from it.
    """
    tested = {same_name(name) for name in tested_on}
    leaked = [name for name in tuned_on if same_name(name) in tested]
    if leaked:
        raise ValueError(
            f"{', '.join(leaked)} is an unknown set of the test; tuned on it, the result would say "
            "little of other images: tune on another set or on known data, or allow the leak"
        )


def tune_on_known(
    detector: Detector,
    grid: Grid | None = None,
    *,
    known: Any,
    tap: Tap | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> Tuned:
    """Chooses temperature and input step from known images alone.

    The temperature is the one under which the labels are most likely (least negative
    log-likelihood). Then the step is the one that lowers the mean score of known images most, as
    unknown images gain less from it. Nothing here depends on what the unknown will be.

    Paper: Guo et al., *On Calibration of Modern Neural Networks*, 2017,
    https://arxiv.org/abs/1706.04599, and Hsu et al., *Generalized ODIN*, 2020,
    https://arxiv.org/abs/2002.11297.

    Args:
        detector: Fitted, if it learns anything; it has a `temperature`, an `epsilon` or both.
        grid: The values of these to try; by default those of `GRID`.
        known: Held-out images of known classes with labels, or their activations.
        tap: As in `tune`.
        limit: As in `tune`.
        seed: As in `tune`.
        batch_size: As in `tune`.

    Returns:
        As `tune`, with figures `nll` for temperatures and `mean_score_drop` for steps.

    Example:
        >>> from openset import Activations
        >>> from openset.detectors import MaxSoftmax
        >>> known = Activations(torch.eye(3).repeat(4, 1) * 9, labels=torch.tensor([0, 1, 2] * 4))
        >>> tune_on_known(MaxSoftmax(), known=[known]).settings
        {'temperature': 1.0}
    """
    values = _values(detector, grid)
    for name in values:
        if name not in GRID:
            raise ValueError(
                f"known data alone can tune {' and '.join(GRID)}, not {name}; use tune with unknown"
            )
    source, names = Validation(tap, batch_size, limit, seed), (_name(known, "known"),)
    tuned = Tuned(detector, {}, [], names)
    if "temperature" in values:
        points = [{"temperature": value} for value in values["temperature"]]
        losses = _losses([point["temperature"] for point in points], source, known)
        tuned = _best(detector, points, "nll", losses, names)
    if "epsilon" not in values:
        return tuned
    points = [{**tuned.settings, "epsilon": value} for value in values["epsilon"]]
    still = {**tuned.settings, "epsilon": 0.0}
    candidates = [_changed(detector, point) for point in (still, *points)]
    plain, *moved = (score.double().mean().item() for score in source.scores(candidates, known))
    drops = [plain - score for score in moved]
    stepped = _best(detector, points, "mean_score_drop", drops, names)
    return replace(stepped, figures=tuned.figures + stepped.figures)


def _values(detector: Detector, grid: Grid | None) -> Grid:
    """The grid, or the part of `GRID` that the detector has settings for."""
    own = detector.settings()
    if grid is None:
        usual = {**GRID, **detector.grid}
        grid = {name: values for name, values in usual.items() if name in own}
    for name, values in grid.items():
        if name not in own:
            raise ValueError(unknown_name(f"setting of {detector.name}", name, own))
        if not len(values):
            raise ValueError(f"the grid has no value for {name}; give at least one")
        for value in values:
            check_kinds(f"detector {detector.name}", type(detector), {name: value})
            type(detector)(**{**own, name: value})  # Which says what is out of range.
    if not grid:
        raise ValueError(f"{detector.name} has none of {', '.join(GRID)}; name a grid")
    return grid


def _changed(detector: Detector, point: Point) -> Detector:
    """The detector with some settings changed; what it has learned is shared, not copied."""
    changed = copy.copy(detector)
    for name, value in point.items():
        setattr(changed, name, value)
    return changed


def _best(
    detector: Detector,
    points: list[Point],
    measure: str,
    values: list[float],
    names: tuple[str, ...],
) -> Tuned:
    """The grid point with the best value of a measure; the first of equals."""
    best = points[values.index(MEASURES[measure](values))]
    figures = [{**point, measure: value} for point, value in zip(points, values, strict=True)]
    chosen = copy.deepcopy(_changed(detector, best))
    chosen.tuned_on = tuple(dict.fromkeys((*detector.tuned_on, *names)))
    return Tuned(chosen, best, figures, chosen.tuned_on)


def _losses(temperatures: Sequence[float], source: Validation, known: Any) -> list[float]:
    """The mean negative log-likelihood of known labels at each temperature, in nats."""
    generator = torch.Generator().manual_seed(source.seed)
    rows = []
    for _, seen in source.read(known):
        seen = replace(seen, features={}, extra={})
        few = seen.rows()[some_pixels(seen, False, generator)] if seen.grid else seen
        rows.append(known_rows(few))
    together = concatenate(rows)
    assert together.labels is not None
    logits = together.logits.double()
    return [F.cross_entropy(logits / t, together.labels).item() for t in temperatures]


def _name(data: Any, otherwise: str | None = None) -> str:
    """The name of a data set."""
    name = getattr(data, "name", otherwise)
    if name is None:
        raise ValueError(
            f"{type(data).__name__} has no name, and a tuned result must say what it was tuned on; "
            "give {name: images}"
        )
    return str(name)
