"""Runs a protocol: trains what is missing, reuses what is there, ends with the paper's table."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from rich.table import Table

from openset import data as images
from openset.benchmark.keys import Fingerprints
from openset.benchmark.paper_table import paper_rows
from openset.benchmark.protocol import Method, Protocol
from openset.benchmark.protocol_file import LEFT_OUT
from openset.benchmark.provenance import notes
from openset.benchmark.step import Step, check_run, training_key
from openset.benchmark.time_left import TimeLeft, evaluation_passes, forward_speed, training_passes
from openset.benchmark.trial import Trial
from openset.benchmark.work import PARTIAL, locked, part_of, write_beside
from openset.data import Data, ImageSet
from openset.errors import Paused, unknown_name
from openset.evaluation.evaluate import evaluate
from openset.evaluation.metrics import METRICS
from openset.evaluation.results import FILES, Results
from openset.evaluation.stamp import minutes
from openset.extractors.tap import Tap
from openset.files import parse_json, refuse_foreign
from openset.model.fit import fit
from openset.model.tune import tune_model
from openset.networks.device import choose_device
from openset.runs.run import Run, build_detector
from openset.runs.train import train_run
from openset.scoring.views import layers_for
from openset.training.checkpoints import read_pictures

Say = Callable[[str], None]


TUNED_ON = 500
"""Images of each set that a detector is tuned on, as many as the survey takes."""


AGAIN = "run the same command again to go on exactly there"


def benchmark(
    protocol: Protocol,
    out: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str] | None = None,
    seeds: int | None = None,
    only: Sequence[str] = (),
    skip_missing: bool = False,
    max_minutes: float | None = None,
    command: str = "",
    say: Say = print,
    device: str | torch.device | None = None,
) -> Results:
    """Runs a protocol to its end and writes `results.csv` and `report.html`.

    Trained networks and evaluations lie in a work folder, each complete or absent, under a hash of
    all that decides them. What is there is reused; after an interruption the same call goes on.

    Args:
        protocol: As `protocol.load` gives it.
        out: Folder for the results.
        cache: The work folder; `out/work` by default. Several protocols may share one.
        seeds: How many seeds, instead of the protocol's number.
        only: Detectors to run, by name or with settings; all by default.
        skip_missing: Leave out unknown sets that are not on this machine, and say so.
        max_minutes: Stop at a checkpoint after so long.
        command: What the results say was run.
        say: Is told of each step.
        device: As for `openset.networks.device.choose_device`.

    Raises:
        Paused: If `max_minutes` have passed; the same call goes on.
        ValueError: For data that is missing, and a folder that holds anything else.
    """
    out = Path(out)
    work = Path(cache or out / "work")
    refuse_foreign(out, (*FILES, "work", PARTIAL + "*"))
    with locked(work):
        bench = Benchmark(protocol, work, seeds, only, skip_missing, device)
        results = bench.run(max_minutes, say)
        first = bench.steps[0].data
        results.notes |= notes(bench.protocol, first, bench.seconds, bench.left_out, command)
        write_beside(results, out)
    return results


class Benchmark:
    """A protocol with its work folder: what is there, what is missing, and how to get it."""

    def __init__(
        self,
        protocol: Protocol,
        work: Path,
        seeds: int | None = None,
        only: Sequence[str] = (),
        skip_missing: bool = False,
        device: str | torch.device | None = None,
    ):
        if seeds is not None and seeds < 1:
            raise ValueError(f"seeds is {seeds}; give at least 1")
        self.protocol = replace(protocol, methods=chosen(protocol, only))
        self.work, self.skip_missing, self.device = work, skip_missing, choose_device(device)
        self.seeds = seeds or protocol.seeds
        self.fingerprints = Fingerprints()
        self.left_out: dict[str, str] = {}
        self.speeds: dict[tuple, float] = {}
        self.seconds = {"training": 0.0, "evaluation": 0.0}

    @cached_property
    def trials(self) -> list[Trial]:
        """Every network: the first seed of all first."""
        protocol = self.protocol
        return [
            Trial(protocol, method, split, seed)
            for seed in range(self.seeds)
            for method in protocol.methods
            for split in range(len(protocol.splits))
        ]

    @cached_property
    def steps(self) -> list[Step]:
        """The trials with their data; nothing is decoded yet."""
        return [self._step(trial) for trial in self.trials]

    def _step(self, trial: Trial) -> Step:
        data = trial.load_data()
        sets = self._unknown(data)
        prints = {name: self.fingerprints.of(each, name) for name, each in sets.items()}
        objective = trial.build_objective(data)
        companions = {name: self._step(other) for name, other in trial.companions.items()}
        key = training_key(
            trial.describe(data, objective),
            self.fingerprints.of_data(data, trial.protocol.data),
            trial.method.weights,
            companions,
        )
        tuning = {
            name: {each: images.load_images(each, data.adapter) for each in names}
            for name, names in trial.method.tune.items()
        }
        tuning_prints = {
            name: {each: self.fingerprints.of(s, each) for each, s in tuned_on.items()}
            for name, tuned_on in tuning.items()
        }
        return Step(
            trial, data, sets, objective, prints, key, self.work, tuning, tuning_prints, companions
        )

    def _unknown(self, data: Data) -> dict[str, ImageSet]:
        """The unknown sets by name; what cannot be read is refused, or left out."""
        found, problems = {}, {}
        for name in self.protocol.unknown_sets:
            try:
                found[name] = (
                    data.unknown if name == LEFT_OUT else images.load_images(name, data.adapter)
                )
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

    def plan(self) -> Table:
        """What would run, where it lies, and about how long it takes."""
        table = Table("network", "to train", "to evaluate", "about", "run folder", title="plan")
        total = 0.0
        for step in self.steps:
            missing = step.missing()
            seconds = sum(self.estimate(step, missing))
            total += seconds
            done = f" ({step.epochs_done} epochs are done)" if step.epochs_done else ""
            training = "there" if step.trained else f"{step.trial.settings.epochs} epochs{done}"
            detectors = ", ".join(missing) or "all there"
            table.add_row(str(step.trial), training, detectors, minutes(seconds), str(step.folder))
        table.caption = (
            f"about {minutes(total)} in all on this machine: a guess from a timed forward pass; "
            "fitting detectors comes on top"
        )
        return table

    def run(self, max_minutes: float | None = None, say: Say = print) -> Results:
        """Does what is missing and returns all results.

        Raises:
            Paused: If the time is up.
        """
        end = time.monotonic() + 60 * max_minutes if max_minutes is not None else None
        left = TimeLeft()
        for step in self.steps:
            seconds = self.estimate(step, step.missing())
            left.add(f"train {step.trial}", seconds[0])
            left.add(f"evaluate {step.trial}", seconds[1])
        parts: list[Results] = []
        for number, step in enumerate(self.steps, 1):
            place = f"{number}/{len(self.steps)} {step.trial}"
            with left.timing(f"train {step.trial}"):
                run = self._train(step, end, lambda text, p=place: say(f"{p}: {text}; {left}"))
            with left.timing(f"evaluate {step.trial}"):
                self._evaluate(step, run, end, lambda text, p=place: say(f"{p}: {text}; {left}"))
            parts += [Results.load(unit) for unit in step.units().values()]
            pictures = read_pictures(step.folder).items()
            parts[-1].figures |= {f"{step.trial}: {title}": png for title, png in pictures}
            self._add_seconds(step, run, parts[-len(step.trial.method.detectors) :])
        return self._merged(parts)

    def estimate(self, step: Step, missing: Sequence[str]) -> tuple[float, float]:
        """A guess at the seconds to train and to evaluate what is missing."""
        trial, network, data = step.trial, step.objective.network, step.data
        key = (trial.method.network, len(data.classes), data.adapter.shape)
        if key not in self.speeds:
            self.speeds[key] = forward_speed(network, data.adapter.shape)
        share = 0 if step.trained else 1 - step.epochs_done / trial.settings.epochs
        training = training_passes(data, trial.settings.epochs) * share / self.speeds[key]
        training += sum(self.estimate(other, ())[0] for other in step.companions.values())
        detectors = [build_detector(name, **step.networks()) for name in missing]
        evaluation = evaluation_passes(data, step.sets, detectors)
        return training, evaluation / self.speeds[key]

    def _train(self, step: Step, end: float | None, say: Say) -> Run:
        trial, protocol = step.trial, step.trial.protocol
        for name, other in step.companions.items():
            self._train(other, end, lambda text, name=name: say(f"{text} its {name}"))
        if not step.trained:
            say("training")
            try:
                train_run(
                    protocol.data,
                    step.folder,
                    network=trial.method.network,
                    objective=trial.method.objective,
                    known_classes=trial.known_classes,
                    size=protocol.size,
                    channels=protocol.channels,
                    valid=protocol.valid,
                    weights=step.weights,
                    resume=True,
                    max_minutes=_minutes_to(end),
                    settings=trial.settings,
                    device=self.device,
                )
            except Paused as pause:
                raise Paused(f"{trial}: {str(pause).split(';')[0]}; {AGAIN}") from None
        run = Run.load(step.folder)
        check_run(run, trial.describe(step.data, step.objective), step.data)
        return run

    def _evaluate(self, step: Step, run: Run, end: float | None, say: Say) -> None:
        """Fits and evaluates what is missing in one pass; each detector gets its own folder."""
        missing = step.missing()
        if not missing:
            return
        _minutes_to(end)
        say(f"evaluating {', '.join(missing)}")
        from openset.reporting.latent import pictures  # Here, because drawing takes long to import.

        started, protocol = time.monotonic(), step.trial.protocol
        network = run.load_network(self.protocol.trust).to(self.device)
        beside = {
            name: Run.load(s.folder).load_network(self.protocol.trust)
            for name, s in step.companions.items()
        }
        detectors = {name: build_detector(name, **beside) for name in missing}
        with tempfile.TemporaryDirectory(dir=self.work, prefix=".activations-") as store:
            models = fit(
                network,
                detectors,
                step.data.train,
                step.data.valid,
                accept=protocol.accept,
                store=store,
                training=any(METRICS[name].of_training for name in protocol.measured),
            )
        for name, sets in step.tuning.items():
            if name in models:
                models[name], tuned = tune_model(
                    models[name], step.data.valid, sets, accept=protocol.accept, limit=TUNED_ON
                )
                say(f"{name} tuned to {tuned.settings}")
        tap = Tap(network, layers_for(network, list(detectors.values())))
        results = evaluate(
            tap,
            {name: model.detector for name, model in models.items()},
            step.data.test,
            step.sets,
            thresholds={name: t for name, m in models.items() if (t := m.threshold) is not None},
            metrics=protocol.measured,
            classes=run.classes,
            run=step.trial.case,
        )
        drawn = pictures(
            tap, detectors.values(), step.data.test, step.sets, run.classes, str(step.trial)
        )
        seconds = (time.monotonic() - started) / len(missing)
        units = step.units()
        for name in missing:
            part = part_of(results, name)
            part.figures, drawn = drawn, {}
            part.notes["seconds"] = f"{seconds:.1f}"
            part.save(units[name])

    def _add_seconds(self, step: Step, run: Run, parts: Sequence[Results]) -> None:
        for other in step.companions.values():
            self._add_seconds(other, Run.load(other.folder), [])
        log = run.folder / "log.jsonl"
        if log.exists() and (lines := log.read_text().splitlines()):
            self.seconds["training"] += parse_json(lines[-1]).get("seconds", 0.0)
        self.seconds["evaluation"] += sum(float(part.notes.pop("seconds", 0)) for part in parts)

    def _merged(self, parts: Sequence[Results]) -> Results:
        results = Results.merge(parts)
        results.rows = paper_rows(self.protocol, results.rows)
        return results


def _minutes_to(end: float | None) -> float | None:
    """Minutes until the end; raises `Paused` where none are left."""
    if end is None:
        return None
    left = (end - time.monotonic()) / 60
    if left <= 0:
        raise Paused(f"the benchmark paused, because its time is up; {AGAIN}")
    return left


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
