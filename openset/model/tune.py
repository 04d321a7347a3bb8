"""A detector's settings chosen on validation data, which every result is then named after."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from openset.activations import Activations, concatenate
from openset.data import ImageSet, batches
from openset.data.sources import same_name
from openset.detectors import Detector
from openset.detectors.rows import known as known_rows
from openset.errors import unknown_name
from openset.evaluation.metrics import fpr_at_95_tpr
from openset.extractors.extract import finite, named
from openset.extractors.perturb import Perturb
from openset.extractors.tap import Tap
from openset.model.open_set import OpenSet
from openset.networks.device import device_of
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


@dataclass(frozen=True)
class _Source:
    """Reads validation data: images through a tap, or activations as they are given."""

    tap: Tap | None
    batch_size: int
    limit: int | None
    seed: int

    def read(self, data: Any) -> Iterator[tuple[Tensor | None, Activations]]:
        """Images with their plain activations, on the CPU; None for images if there are none."""
        if self.tap is None:
            yield from ((None, batch) for batch in data)
            return
        device = device_of(self.tap)
        for i, (image, label) in enumerate(batches(self._limited(data), self.batch_size)):
            with torch.no_grad(), named(i):
                image = image.to(device)
                seen = self.tap(image).to("cpu")
                finite(seen.logits, "the network's logits")
            seen.labels = label
            yield image, seen

    def _limited(self, data: Any) -> Any:
        """A seeded sample of the images, in their order."""
        if self.limit is None:
            return data
        if not isinstance(data, Dataset):
            raise ValueError(f"limit needs an ImageSet or a Dataset; got {type(data).__name__}")
        count = len(cast(Any, data))
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(count, generator=generator)[: self.limit].sort().values.tolist()
        return data.subset(chosen) if isinstance(data, ImageSet) else Subset(data, chosen)

    def scores(self, candidates: Sequence[Detector], data: Any) -> list[Tensor]:
        """The scores `[N]` of each candidate."""
        found = [_look(candidates, self.tap, image, seen) for image, seen in self.read(data)]
        if not found:
            raise ValueError("no images: the data set or the loader gave no batch")
        return [torch.cat(column) for column in zip(*found, strict=True)]


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
    source = _Source(tap, batch_size, limit, seed)
    values = _values(detector, grid)
    points = [
        dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())
    ]
    candidates = [_changed(detector, point) for point in points]
    low = source.scores(candidates, known)
    others = [source.scores(candidates, images) for images in sets.values()]
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
    source, names = _Source(tap, batch_size, limit, seed), (_name(known, "known"),)
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
        grid = {name: values for name, values in GRID.items() if name in own}
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
    chosen.tuned_on = names
    return Tuned(chosen, best, figures, names)


def _losses(temperatures: Sequence[float], source: _Source, known: Any) -> list[float]:
    """The mean negative log-likelihood of known labels at each temperature, in nats."""
    rows = [known_rows(replace(seen, features={}, extra={})) for _, seen in source.read(known)]
    together = concatenate(rows)
    assert together.labels is not None
    logits = together.logits.double()
    return [F.cross_entropy(logits / t, together.labels).item() for t in temperatures]


@torch.no_grad()
def _look(
    candidates: Sequence[Detector], tap: Tap | None, image: Tensor | None, seen: Activations
) -> list[Tensor]:
    """Scores one batch by each candidate, with no more forward passes or gradients than needed."""
    directions: dict[str, Tensor] = {}
    scores = []
    for candidate in candidates:
        view = candidate.view(cast(Tap, tap))
        if not candidate.looks_again:
            again = seen
        elif image is None:
            raise ValueError(
                f"{candidate.name} looks at the image again; give images and a tap, "
                "not activations, or a grid without that look"
            )
        elif isinstance(view, Perturb):
            # The gradient's sign is the same for every length of the step.
            key = repr({**candidate.settings(), "epsilon": None})
            if key not in directions:
                directions[key] = view.direction(image)
            again = view.extractor(image - view.epsilon * directions[key]).to("cpu")
        else:
            again = view(image).to("cpu")
        scores.append(candidate(again))
    return scores


def _name(data: Any, otherwise: str | None = None) -> str:
    """The name of a data set."""
    name = getattr(data, "name", otherwise)
    if name is None:
        raise ValueError(
            f"{type(data).__name__} has no name, and a tuned result must say what it was tuned on; "
            "give {name: images}"
        )
    return str(name)
