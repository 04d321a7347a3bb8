"""Runs a protocol: trains what is missing, reuses what is there, ends with the paper's table."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from openset.benchmark.paper_table import paper_rows, shown_known
from openset.benchmark.plan import Plan
from openset.benchmark.protocol import Protocol
from openset.benchmark.provenance import notes
from openset.benchmark.step import Step
from openset.benchmark.work import PARTIAL, at_work, part_of, write_beside
from openset.errors import Paused
from openset.evaluation.evaluate import evaluate
from openset.evaluation.metrics import METRICS
from openset.evaluation.results import FILES, Results
from openset.files import parse_json, refuse_foreign
from openset.model.fit import fit
from openset.model.tune import tune_model
from openset.networks.device import choose_device
from openset.runs.run import Run, build_detector
from openset.runs.train import train_run
from openset.scoring.threshold import SEEN
from openset.training.checkpoints import read_pictures

Say = Callable[[str], None]


TUNED_ON = 500
"""The number of images of each set that a detector is tuned on, as many as the survey takes."""


AGAIN = "run the same command again to go on exactly there"


def benchmark(
    protocol: Protocol,
    out: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str] | None = None,
    seeds: int | None = None,
    first_seed: int = 0,
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
        seeds: Number of seeds, instead of the protocol's.
        first_seed: The first of them. Processes that have others each, and a work folder each, do
            the work side by side; one call for all seeds, on a copy of these folders, gathers it.
        only: Detectors to run, by name or with settings; all by default.
        skip_missing: Leave out unknown sets that are not on this machine, and say so.
        max_minutes: Stop at a checkpoint after so many minutes.
        command: The command line that the results name.
        say: Called with a sentence at each step.
        device: As for `openset.networks.device.choose_device`.

    Raises:
        Paused: If `max_minutes` have passed; the same call goes on.
        ValueError: For data that is missing, and a folder that holds anything else.
    """
    end = time.monotonic() + 60 * max_minutes if max_minutes is not None else None
    out = Path(out)
    work = Path(cache or out / "work")
    refuse_foreign(out, (*FILES, "work", PARTIAL + "*"))
    with at_work(work):
        which = {"seeds": seeds, "first_seed": first_seed, "only": only}
        plan = Plan(protocol, work, **which, skip_missing=skip_missing)
        runner = Runner(plan, choose_device(device), say)
        results = runner.run(end)
        first = plan.steps[0].data
        results.shown = list(plan.protocol.metrics)
        results.shown_known = shown_known(plan.protocol)
        results.notes |= notes(plan.protocol, first, runner.seconds, plan.left_out, command)
        write_beside(results, out)
    return results


class Runner:
    """Does what a plan says is missing, step by step, and gathers the results.

    Args:
        plan: The steps.
        device: Where networks are trained and run.
        say: Is told of each step.

    Attributes:
        seconds: The time that trainings and evaluations took, in this call or an earlier one.
    """

    def __init__(self, plan: Plan, device: torch.device, say: Say = print):
        self.plan, self.work, self.device, self.say = plan, plan.work, device, say
        self.seconds = {"training": 0.0, "evaluation": 0.0}

    def run(self, end: float | None = None) -> Results:
        """Does what is missing and returns all results.

        Args:
            end: When to pause, by `time.monotonic`; None for never.

        Raises:
            Paused: If the time is up.
        """
        steps, left = self.plan.steps, self.plan.time_left()
        parts: list[Results] = []
        for i, step in enumerate(steps):
            place = f"{i + 1}/{len(steps)} {step.trial}"

            def say(text: str, place: str = place) -> None:
                self.say(f"{place}: {text}; {left}")

            with left.timing(("train", i)):
                run = self._train(step, end, say)
            with left.timing(("evaluate", i)):
                self._evaluate(step, run, end, say)
            parts += [Results.load(unit) for unit in step.units().values()]
            pictures = read_pictures(step.folder).items()
            parts[-1].figures |= {f"{step.trial}: {title}": png for title, png in pictures}
            self._add_seconds(step, run, parts[-len(step.trial.method.detectors) :])
        results = Results.merge(parts)
        results.rows = paper_rows(self.plan.protocol, results.rows)
        return results

    def _train(self, step: Step, end: float | None, say: Say) -> Run:
        """Trains the network and its companions where they are missing."""
        for name, other in step.companions.items():
            self._train(other, end, lambda text, name=name: say(f"{text} its {name}"))
        if not step.trained:
            left = _minutes_to(end)
            say("training")
            try:
                how = {"resume": True, "max_minutes": left, "device": self.device}
                train_run(step.recipe, step.folder, **how, beside=step.beside)
            except Paused as pause:
                raise Paused(f"{step.trial}: {pause.progress}", AGAIN) from None
        return step.load_run()

    def _evaluate(self, step: Step, run: Run, end: float | None, say: Say) -> None:
        """Fits and evaluates what is missing in one pass; each detector gets its own folder."""
        missing = step.missing()
        if not missing:
            return
        _minutes_to(end)
        say(f"evaluating {', '.join(missing)}")
        from openset.reporting.latent import pictures  # Here, because drawing takes long to import.

        started, protocol = time.monotonic(), step.trial.protocol
        network = run.load_network(protocol.trust or ()).to(self.device)
        beside = {
            name: Run.load(s.folder).load_network(protocol.trust or ())
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
        for model in models.values():
            model.doubt(SEEN if step.trial.recipe.weights else None)
        known, sets = step.data.test, step.sets
        results = evaluate(
            models,
            known=known,
            unknown=sets,
            metrics=protocol.measured,
            classes=run.classes,
            run=step.trial.case,
        )
        drawn = pictures(models, known, sets, run.classes, str(step.trial))
        seconds = (time.monotonic() - started) / len(missing)
        units = step.units()
        for name in missing:
            part = part_of(results, name)
            part.figures, drawn = drawn, {}
            part.seconds = seconds
            part.save(units[name])

    def _add_seconds(self, step: Step, run: Run, parts: Sequence[Results]) -> None:
        for other in step.companions.values():
            self._add_seconds(other, Run.load(other.folder), [])
        log = run.folder / "log.jsonl"
        if log.exists() and (lines := log.read_text().splitlines()):
            self.seconds["training"] += parse_json(lines[-1]).get("seconds", 0.0)
        self.seconds["evaluation"] += sum(part.seconds for part in parts)


def _minutes_to(end: float | None) -> float | None:
    """Minutes until the end; raises `Paused` where none are left."""
    if end is None:
        return None
    left = (end - time.monotonic()) / 60
    if left <= 0:
        raise Paused("the benchmark paused, because its time is up", AGAIN)
    return left
