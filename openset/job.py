"""The jobs behind the commands: train into a run, evaluate a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from openset import data as images
from openset import networks
from openset.data import Data, ImageSet, mean_std
from openset.evaluate import evaluate
from openset.metrics import STANDARD, find
from openset.model import layers_for
from openset.names import build
from openset.objectives import OBJECTIVES
from openset.results import Results
from openset.run import Run
from openset.tap import Tap
from openset.train import Settings, accuracy, train


def train_run(
    name: str,
    out: str | os.PathLike[str],
    *,
    network: str = "cnn",
    objective: str = "cross-entropy",
    known_classes: str | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    valid: float = 0.1,
    weights: Path | None = None,
    resume: bool = False,
    max_minutes: float | None = None,
    settings: Settings | None = None,
    progress: bool = True,
) -> Run:
    """Trains a network and writes the run; see `openset train` for the arguments.

    Until it is complete the run lies beside `out`, as `.NAME.unfinished`, for `resume`.
    """
    out, settings = Path(out), settings or Settings()
    work = unfinished(out, resume)
    data = images.load(
        name, known_classes, size=size, channels=channels, valid=valid, seed=settings.seed
    )
    model = new_network(network, data, settings.seed, weights)
    goal = build("objective", OBJECTIVES, objective, network=model)
    spec = goal.spec()
    trained = train(
        goal,
        data,
        settings,
        folder=work,
        resume=resume,
        max_minutes=max_minutes,
        progress=progress,
    )
    run = Run(
        folder=work,
        data=name,
        known_classes=known_classes,
        classes=data.classes,
        adapter=data.adapter.settings(),
        network=getattr(trained, "spec", None) or {},
        objective=spec,
        training=vars(settings),
        seed=settings.seed,
        valid=valid,
        accuracy={"test": accuracy(trained, data.test)},
    )
    run.save()
    out.parent.mkdir(parents=True, exist_ok=True)
    work.rename(out)
    run.folder = out
    return run


def unfinished(out: Path, resume: bool) -> Path:
    """The folder in which a run is made, after a look at what is there."""
    work = out.with_name(f".{out.name}.unfinished")
    if out.exists():
        raise ValueError(f"{out} already exists; name another folder, or remove it")
    if work.exists() and not resume:
        raise ValueError(
            f"an unfinished run of {out} is there ({work}); go on with --resume, or remove it"
        )
    return work


def new_network(name: str, data: Data, seed: int, weights: Path | None = None) -> nn.Module:
    """A network for the data: its classes, its channels, normalised by its training images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = networks.build(name, classes=len(data.classes), channels=data.adapter.channels)
    if weights is not None:
        return networks.load_weights(network, weights)
    normalize = getattr(network, "normalize", None)
    if isinstance(normalize, networks.Normalize):
        mean, std = mean_std(data.train)
        normalize.mean.copy_(torch.tensor(mean).view(-1, 1, 1))
        normalize.std.copy_(torch.tensor(std).clamp_min(1e-3).view(-1, 1, 1))
    return network


DETECTORS = ("msp", "energy", "mahalanobis", "gemos")
"""What is evaluated when no detector is named and none is fitted yet."""


def evaluate_run(
    folder: str | os.PathLike[str],
    unknown: Sequence[str],
    detectors: Sequence[str],
    *,
    accept: float = 0.95,
    metrics: Sequence[str] | None = None,
    trust: Sequence[str] = (),
) -> Results:
    """Evaluates models of a run on unknown data; see `openset evaluate` for the arguments."""
    for name in metrics or ():
        find(name)
    run = Run.load(folder)
    network, data = run.load_network(trust), run.load_data()
    sets = unknown_sets(unknown, data)
    names = list(detectors or run.models or DETECTORS)
    models = {name: run.load_model(name, trust) for name in names if name in run.models}
    missing = [name for name in names if name not in models]
    if missing:
        models |= run.fit(missing, data, network, accept=accept)
    results = evaluate(
        Tap(network, layers_for(network, [model.detector for model in models.values()])),
        {name: models[name].detector for name in names},
        data.test,
        sets,
        thresholds={name: t for name in names if (t := models[name].threshold) is not None},
        metrics=metrics or STANDARD,
        classes=run.classes,
        run=run.case,
    )
    results.notes |= run_notes(run, data, sets)
    return results


def unknown_sets(names: Sequence[str], data: Data) -> dict[str, ImageSet]:
    """The unknown data that is named, or else the classes that the run left out."""
    if names:
        return {name: images.load_images(name, data.adapter) for name in names}
    if not len(data.unknown):
        raise ValueError("this run left no class out; name unknown data: --unknown DATA…")
    return {data.unknown.name: data.unknown}


def run_notes(run: Run, data: Data, sets: Mapping[str, ImageSet]) -> dict[str, str]:
    """What the report says of the run at its top."""
    counts = ", ".join(f"{name} ({len(unknown):,})" for name, unknown in sets.items())
    shares = ", ".join(f"{share:.2%} on {split}" for split, share in run.accuracy.items())
    return {
        "Known": f"{run.data}, {len(run.classes)} classes: {', '.join(run.classes)}",
        "Images": f"{len(data.train):,} to train, {len(data.valid):,} held out for the "
        f"threshold, {len(data.test):,} to test",
        "Unknown": counts,
        "Network": f"{run.network['name']}, trained with {run.objective['name']}, seed {run.seed}",
        "Accuracy": shares,
        "Notes": " ".join(data.notes),
        "Date": date.today().isoformat(),
        "Versions": f"openset {version('openset')}, torch {torch.__version__}",
    }


def write_results(results: Results, folder: Path) -> None:
    """Writes the results and their report into a folder."""
    from openset.report import report  # Here, because drawing takes long to import.

    results.write(folder)
    report(results, folder / "report.html")
