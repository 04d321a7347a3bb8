"""The plan of a benchmark: its steps, what of them is missing, and about how long that takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from rich.table import Table

from openset import data as images
from openset.benchmark.protocol import Method, Protocol
from openset.benchmark.protocol_file import LEFT_OUT
from openset.benchmark.step import Step
from openset.benchmark.time_left import TimeLeft, evaluation_passes, forward_speed, training_passes
from openset.benchmark.trial import Trial
from openset.data import Data, ImageSet
from openset.data.pixels import Encoded, Pixels
from openset.errors import unknown_name
from openset.evaluation.stamp import minutes
from openset.networks.device import choose_device
from openset.runs.run import build_detector


class Plan:
    """The steps of a protocol in a work folder, and what of each is missing.

    Args:
        protocol: As `protocol.load` gives it.
        work: The work folder, there or not; nothing is written into it.
        seeds: Number of seeds, instead of the protocol's.
        only: Detectors to run, by name or with settings; all by default.
        networks: Networks to run, as the protocol names them; all by default.
        skip_missing: Whether to leave out unknown sets that are not on this machine.
        device: Where networks will run, which decides how long that takes.

    Attributes:
        left_out: Why each unknown set that is left out cannot be read.
    """

    def __init__(
        self,
        protocol: Protocol,
        work: Path,
        *,
        seeds: int | None = None,
        only: Sequence[str] = (),
        networks: Sequence[str] = (),
        skip_missing: bool = False,
        device: str | torch.device | None = None,
    ):
        if seeds is not None and not 1 <= seeds <= 1000:
            raise ValueError(f"seeds is {seeds}; give at least 1 and at most 1000")
        methods = chosen(on_networks(protocol, networks), only)
        self.protocol = replace(protocol, methods=methods)
        self.work, self.skip_missing, self.device = work, skip_missing, choose_device(device)
        self.seeds = seeds or protocol.seeds
        self.left_out: dict[str, str] = {}
        self._sources: dict[tuple[str, str], tuple[Pixels, Encoded | None]] = {}
        self._speeds: dict[tuple, float] = {}

    @cached_property
    def steps(self) -> list[Step]:
        """One step for each network, those of the first seed first. No image is decoded yet."""
        return [
            self._step(Trial(self.protocol, method, split, seed))
            for seed in range(self.seeds)
            for method in self.protocol.methods
            for split in range(len(self.protocol.splits))
        ]

    def _step(self, trial: Trial) -> Step:
        data = trial.load_data()
        for part in ("train", "valid", "test", "unknown"):
            self._share(getattr(data, part), self.protocol.data, part)
        tuning = {
            name: {each: self._load_images(each, data) for each in names}
            for name, names in trial.method.tune.items()
        }
        companions = {name: self._step(other) for name, other in trial.companions.items()}
        return Step(trial, data, self.work, self._unknown(data), tuning, companions)

    def _unknown(self, data: Data) -> dict[str, ImageSet]:
        """The unknown sets by name; what cannot be read is refused, or left out."""
        found, problems = {}, {}
        for name in self.protocol.unknown_sets:
            try:
                found[name] = data.unknown if name == LEFT_OUT else self._load_images(name, data)
            except ValueError as error:
                problems[name] = str(error)
        self.left_out |= problems
        if problems and not (self.skip_missing and found):
            root = os.environ.get("OPENSET_DATA", "not set")
            raise ValueError(
                f"{self.protocol.name} needs unknown data that cannot be read here: "
                f"{', '.join(problems)}; set OPENSET_DATA (now {root}) to the folder that holds "
                f"them, go online, or leave them out with --skip-missing "
                f"({next(iter(problems.values()))})"
            )
        return found

    def _load_images(self, name: str, data: Data) -> ImageSet:
        return self._share(images.load_images(name, data.adapter), name)

    def _share(self, found: ImageSet, name: str, part: str = "") -> ImageSet:
        """Lets all steps read a source from one place, so that it is hashed once."""
        read = (found.pixels, found.masks)
        found.pixels, found.masks = self._sources.setdefault((name, part), read)
        return found

    def table(self) -> Table:
        """A table of the steps: what each would run, about how long that takes, and its folder."""
        table = Table("network", "to train", "to evaluate", "about", "run folder", title="plan")
        total = 0.0
        for step in self.steps:
            missing = step.missing()
            seconds = sum(self.estimate(step, missing))
            total += seconds
            done = f" ({step.epochs_done} epochs are done)" if step.epochs_done else ""
            training = "there" if step.trained else f"{step.recipe.settings.epochs} epochs{done}"
            detectors = ", ".join(missing) or "all there"
            table.add_row(str(step.trial), training, detectors, minutes(seconds), str(step.folder))
        table.caption = (
            f"about {minutes(total)} in all on this machine: a guess from a timed forward pass; "
            "fitting detectors comes on top"
        )
        return table

    def time_left(self) -> TimeLeft:
        """The guesses for all steps: `("train", i)` and `("evaluate", i)` for the step i."""
        left = TimeLeft()
        for i, step in enumerate(self.steps):
            training, evaluation = self.estimate(step, step.missing())
            left.add(("train", i), training)
            left.add(("evaluate", i), evaluation)
        return left

    def estimate(self, step: Step, missing: Sequence[str]) -> tuple[float, float]:
        """A guess at the seconds to train and to evaluate what is missing."""
        data, epochs = step.data, step.recipe.settings.epochs
        key = (step.trial.method.network, len(data.classes), data.adapter.shape)
        if key not in self._speeds:
            self._speeds[key] = forward_speed(
                step.objective.network, data.adapter.shape, self.device
            )
        share = 0 if step.trained or not epochs else 1 - step.epochs_done / epochs
        training = training_passes(data, epochs) * share / self._speeds[key]
        training += sum(self.estimate(other, ())[0] for other in step.companions.values())
        detectors = [build_detector(name, **step.networks()) for name in missing]
        evaluation = evaluation_passes(data, step.sets, detectors)
        return training, evaluation / self._speeds[key]


def on_networks(protocol: Protocol, networks: Sequence[str]) -> Protocol:
    """The protocol with the methods on the networks that are asked for."""
    every = list(dict.fromkeys(method.network for method in protocol.methods))
    for name in networks:
        if name not in every:
            raise ValueError(unknown_name("network of this protocol", name, every))
    kept = [method for method in protocol.methods if method.network in networks]
    return replace(protocol, methods=kept) if networks else protocol


def chosen(protocol: Protocol, only: Sequence[str]) -> list[Method]:
    """The methods with those of their detectors that are asked for."""
    every = dict.fromkeys(name for method in protocol.methods for name in method.detectors)
    bare = {name.partition(":")[0] for name in every}
    for name in only:
        if name not in every and name not in bare:
            raise ValueError(unknown_name("detector of this protocol", name, {*every, *bare}))
    if not only:
        return protocol.methods
    kept = [
        replace(
            method, detectors=[d for d in method.detectors if {d, d.partition(":")[0]} & {*only}]
        )
        for method in protocol.methods
    ]
    return [method for method in kept if method.detectors]
