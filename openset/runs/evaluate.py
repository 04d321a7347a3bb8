"""Evaluate the detectors of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from openset import data as images
from openset.data import Data, ImageSet
from openset.data.loaders import per_pixel
from openset.data.sources import same_images
from openset.evaluation.evaluate import evaluate
from openset.evaluation.metrics import METRICS, PIXEL, find
from openset.evaluation.results import Results
from openset.evaluation.stamp import machine, minutes
from openset.model.open_set import OpenSet
from openset.model.tune import refuse_leak
from openset.networks.device import choose_device
from openset.processes import here
from openset.runs.run import Run, build_detector
from openset.training.checkpoints import read_pictures

DEFAULT_DETECTORS = ("msp", "energy", "mahalanobis", "gemos")
"""The detectors to evaluate when none is named and none is fitted yet."""

NO_DATA = "The network was imported without data: nothing was fitted, and its accuracy is unknown."
"""What the report of such a run notes."""


def evaluate_run(
    folder: str | os.PathLike[str],
    unknown: Sequence[str],
    detectors: Sequence[str],
    *,
    accept: float | None = None,
    metrics: Sequence[str] | None = None,
    trust: Sequence[str] = (),
    network: str | None = None,
    allow_leak: bool = False,
    explain: bool = False,
    command: str = "",
    device: str | torch.device | None = None,
) -> Results:
    """Evaluates models of a run on unknown data; see `openset evaluate` for the arguments."""
    from openset.reporting.latent import pictures  # Here, because drawing takes long to import.

    started = perf_counter()
    for name in metrics or ():
        find(name)
    run = Run.load(folder)
    its_network = run.load_network(trust, network).to(choose_device(device))
    data = None if run.recipe.data is None else run.load_data()
    sets = unknown_sets(unknown, run, data)
    names = list(detectors or run.models or default_detectors(run))
    fitted = {n: run.load_model(n, trust, its_network) for n in names if n in run.models}
    for seen in (run.recipe.exposed_to, *(m.detector.tuned_on for m in fitted.values())):
        if not allow_leak:
            refuse_leak(seen, sets)
    if accept is not None:
        check_share(fitted, accept)
    if missing := [name for name in names if name not in fitted]:
        share = 0.95 if accept is None else accept
        fitted |= run.fit(missing, data, its_network, accept=share)
    models = {name: fitted[name] for name in names}
    known, wanted = (data.test, metrics) if data else (known_pixels(sets), of_both_kinds(metrics))
    again: dict[str, Any] = {}
    if explain and data:
        again = {"training": data.train, "held_out": data.valid}
    results = evaluate(models, known=known, unknown=sets, metrics=wanted, run=run.case, **again)
    results.shown = list(metrics or ())
    results.notes |= run_notes(run, data, sets)
    results.notes |= {"Command": command} if command else {}
    results.figures |= read_pictures(run.folder)
    results.figures |= pictures(models, known, sets) if here().first else {}
    results.seconds = perf_counter() - started
    results.notes["Wall time"] = minutes(results.seconds)
    return results


def default_detectors(run: Run) -> list[str]:
    """The usual detectors; of a run without data those that learn nothing."""
    return [
        name
        for name in DEFAULT_DETECTORS
        if run.recipe.data is not None or not build_detector(name).learns
    ]


def unknown_sets(names: Sequence[str], run: Run, data: Data | None) -> dict[str, ImageSet]:
    """The unknown data that is named, or else the classes that the run left out of its source."""
    if names and data is None:
        return {name: images.load_images(name, run.adapter) for name in names}
    if names and data is not None:
        for name in names:
            check_strange(name, run.recipe.data or "", data)
        count = len(data.test)  # Of noise as many as of the known.
        return {name: images.load_images(name, run.adapter, count=count) for name in names}
    if data is None or not len(data.unknown):
        raise ValueError("this run left no class out; name unknown data: --unknown DATA…")
    return {data.unknown.name: data.unknown}


def known_pixels(sets: Mapping[str, ImageSet]) -> ImageSet:
    """The images of the first set once more, in place of the known ones that a run lacks.

    Where pixels are labelled, each set holds known ones too.

    Raises:
        ValueError: For whole images.
    """
    name, first = next(iter(sets.items()))
    if not per_pixel(first):
        raise ValueError(
            "this run was imported without data, so there are no known images to tell the unknown "
            "ones from; import it again with --data"
        )
    return first.subset(torch.arange(len(first)), f"{name}, known pixels")


def of_both_kinds(metrics: Sequence[str] | None) -> list[str]:
    """Those metrics that need no known class to be told from another, or all the usual ones."""
    return [name for name in metrics or PIXEL if METRICS[name].needs_unknown]


def check_share(models: Mapping[str, OpenSet], accept: float) -> None:
    """Raises a ValueError where a model was fitted to accept another share than is asked for."""
    for name, model in models.items():
        if model.threshold is not None and model.threshold.accept != accept:
            raise ValueError(
                f"{name} is fitted to accept {model.threshold.accept:g} of known images, not "
                f"{accept:g}; leave the share out, or fit it again with openset fit"
            )


def check_strange(name: str, source: str, data: Data) -> None:
    """Raises a ValueError where unknown data are the run's own, in which its known classes are."""
    if per_pixel(data.test) or not same_images(name, source):
        return
    left_out = "for the classes that it left out, name no unknown data; " * bool(len(data.unknown))
    raise ValueError(
        f"{name} is what this run was trained on, known classes and all; {left_out}"
        "otherwise name other data"
    )


def run_notes(run: Run, data: Data | None, sets: Mapping[str, ImageSet]) -> dict[str, str]:
    """The facts about the run that stand at the top of the report."""
    counts = ", ".join(f"{name} ({len(unknown):,})" for name, unknown in sets.items())
    shares = ", ".join(f"{share:.2%} on {split}" for split, share in run.accuracy.items())
    known = [run.recipe.data] if run.recipe.data else []
    count = f"{len(run.classes)} classes: {', '.join(run.classes)}"
    found = {
        "Known": ", ".join([*known, count]),
        "Images": f"{len(data.train):,} to train, {len(data.valid):,} held out for the "
        f"threshold, {len(data.test):,} to test"
        if data
        else "",
        "Unknown": counts,
        "Network": f"{run.case.network}, {run.origin}",
        "Accuracy": shares,
        "Warning": run.warning or "",
        "Notes": " ".join(data.notes) if data else NO_DATA,
        "Machine": machine(),
    }
    return {name: text for name, text in found.items() if text}


def write_results(results: Results, folder: Path) -> None:
    """Writes the results and their report into a folder."""
    from openset.reporting import report  # Here, because drawing takes long to import.

    results.write(folder)
    report(results, folder / "report.html")
