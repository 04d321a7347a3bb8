"""Runs a protocol: trains what is missing, reuses what is there, ends with the paper's table."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from openset.benchmark.paper_table import paper_rows, shown_known
from openset.benchmark.plan import Plan
from openset.benchmark.protocol import Protocol
from openset.benchmark.provenance import notes
from openset.benchmark.step import Step
from openset.benchmark.time_left import TimeLeft
from openset.benchmark.work import PARTIAL, activations, at_work, part_of, write_beside
from openset.errors import Paused, one_line
from openset.evaluation.evaluate import evaluate
from openset.evaluation.metrics import METRICS
from openset.evaluation.results import FILES, Results
from openset.files import parse_json, refuse_foreign
from openset.model.fit import fit
from openset.model.tune import tune_model
from openset.runs.run import Run
from openset.runs.train import train_run
from openset.scoring.threshold import SEEN
from openset.training.checkpoints import read_pictures

Say = Callable[[str], None]


TUNED_ON = 500
"""The number of images of each set that a detector is tuned on, as many as the survey takes."""


UNFINISHED = "Unfinished"
"""The note on results that are not whole yet."""


WAIT = 1.0
"""Seconds between two looks at what other processes are at."""


AGAIN = "run the same command again to go on exactly there"


def benchmark(
    protocol: Protocol,
    out: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str] | None = None,
    seeds: int | None = None,
    only: Sequence[str] = (),
    networks: Sequence[str] = (),
    skip_missing: bool = False,
    max_minutes: float | None = None,
    command: str = "",
    say: Say = print,
    device: str | torch.device | None = None,
) -> Results:
    """Runs a protocol to its end and writes `results.csv` and `report.html`.

    Trained networks and evaluations lie in a work folder, each complete or absent, under a hash of
    all that decides them. What is there is reused; after an interruption the same call goes on, and
    `results.csv` holds what was finished. Several processes may call this with the same folders:
    each takes a network that no other is at, and at the end waits for the others.

    Args:
        protocol: As `protocol.load` gives it.
        out: Folder for the results.
        cache: The work folder; `out/work` by default. Several protocols may share one.
        seeds: Number of seeds, instead of the protocol's.
        only: Detectors to run, by name or with settings; all by default.
        networks: Networks to run, as the protocol names them; all by default.
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
    which = {"seeds": seeds, "only": only, "networks": networks}
    plan = Plan(protocol, work, **which, skip_missing=skip_missing, device=device)
    runner = Runner(plan, say)
    results = Results()
    for results in runner.run(end):
        first = plan.steps[0]
        results.shown = list(plan.protocol.metrics)
        results.shown_known = shown_known(plan.protocol)
        results.notes |= notes(
            plan.protocol, first.data, first.sets, runner.seconds, plan.left_out, command
        )
        write_beside(results, out, report=UNFINISHED not in results.notes)
    return results


class Runner:
    """Does what a plan says is missing, step by step, and gathers the results.

    Args:
        plan: The steps, and where networks are trained and run.
        say: Is told of each step.

    Attributes:
        seconds: The time that trainings and evaluations took, in this call or an earlier one.
    """

    def __init__(self, plan: Plan, say: Say = print):
        self.plan, self.work, self.device, self.say = plan, plan.work, plan.device, say
        self.seconds = {"training": 0.0, "evaluation": 0.0}
        self.failures: list[Exception] = []

    def run(self, end: float | None = None) -> Iterator[Results]:
        """Does what is missing, but for what other processes are at, and waits for those.

        Args:
            end: When to pause, by `time.monotonic`; None for never.

        Yields:
            The results that are there after each network, at a pause, and at last all.

        Raises:
            Paused: If the time is up.
            Exception: The first that stopped a network, when all others are done.
        """
        todo, left = dict(enumerate(self.plan.steps)), self.plan.time_left()
        try:
            while todo:
                for i, step in list(todo.items()):
                    missing = bool(step.missing())
                    if missing and not self._attempt(i, step, left, end):
                        continue
                    left.drop(("train", i), ("evaluate", i))
                    del todo[i]
                    if missing and todo:
                        yield self._results()
                time.sleep(WAIT if todo else 0)
        except Paused:
            yield self._results()
            raise
        yield self._results()
        if self.failures:
            raise self.failures[0]

    def _attempt(self, i: int, step: Step, left: TimeLeft, end: float | None) -> bool:
        """Does a step; an error in it is raised at the end, so that it costs no other network."""
        try:
            return self._do(i, step, left, end)
        except Paused:
            raise
        except Exception as error:
            self.say(f"{i + 1}/{len(self.plan.steps)} {step.trial}: failed, {one_line(error)}")
            self.failures.append(error)
            return True

    def _do(self, i: int, step: Step, left: TimeLeft, end: float | None) -> bool:
        """Trains and evaluates what is missing of a step; False if another process is at it."""

        def say(text: str) -> None:
            self.say(f"{i + 1}/{len(self.plan.steps)} {step.trial}: {text}; {left}")

        with at_work(self.work, step.name) as mine:
            if not mine:
                return False
            with left.timing(("train", i)):
                run = self._train(step, end, say)
            with left.timing(("evaluate", i)):
                self._evaluate(step, run, end, say)
        return True

    def _results(self) -> Results:
        """The results that are there, as the paper's table shows them."""
        self.seconds = {"training": 0.0, "evaluation": 0.0}
        steps = [step for step in self.plan.steps if step.trained]
        parts = [part for step in steps for part in self._parts(step)]
        results = Results.merge(parts)
        results.rows = paper_rows(self.plan.protocol, results.rows)
        missing = sum(bool(step.missing()) for step in self.plan.steps)
        if missing:
            networks = f"{missing} of {len(self.plan.steps)} networks"
            results.notes[UNFINISHED] = f"{networks} are still to train or to evaluate; {AGAIN}"
        return results

    def _parts(self, step: Step) -> list[Results]:
        """The results of a network's detectors, and what its training drew with the first."""
        parts = [Results.load(unit) for unit in step.units().values() if unit.exists()]
        for part in parts[:1]:
            pictures = read_pictures(step.folder).items()
            part.figures |= {f"{step.trial}: {title}": png for title, png in pictures}
        self._add_seconds(step, step.load_run(), parts)
        return parts

    def _train(self, step: Step, end: float | None, say: Say) -> Run:
        """Trains the network and its companions where they are missing."""
        for name, other in step.companions.items():
            self._train(other, end, lambda text, name=name: say(f"{text} its {name}"))
        # Another protocol may train the same network.
        with at_work(self.work, step.folder.name, wait=not step.trained):
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
        detectors = {name: run.build_detector(name, **beside) for name in missing}
        with activations(self.work, step.name) as store:
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
