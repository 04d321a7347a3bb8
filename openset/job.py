"""The jobs behind the commands: train into a run, tune and evaluate detectors of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from openset import data as images
from openset import networks
from openset.data import Adapter, Data, ImageSet, mean_std
from openset.data.sources import same_images
from openset.detectors import Detector
from openset.device import choose_device
from openset.evaluate import evaluate
from openset.fit import fit
from openset.metrics import STANDARD, find
from openset.model import OpenSet, layers_for
from openset.names import build, parse
from openset.objectives import OBJECTIVES
from openset.objectives.base import Objective
from openset.pixel_rows import per_pixel
from openset.results import Results
from openset.run import Run, build_detector
from openset.run_folder import read_pictures
from openset.stamp import machine, minutes
from openset.tap import Tap, evaluating
from openset.train import Settings, accuracy, train
from openset.tune import Tuned, refuse_leak, tune_model


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
    device: str | torch.device | None = None,
) -> Run:
    """Trains a network and writes the run; see `openset train` for the arguments.

    Until it is complete the run lies beside `out`, as `.NAME.unfinished`, for `resume`.
    """
    out, settings = Path(out), settings or Settings()
    if settings.epochs == 0 and weights is None:
        raise ValueError("0 epochs keep the weights as they are; name them, or train for longer")
    work = unfinished(out, resume)
    begun = work.exists()
    data = images.load(
        name, known_classes, size=size, channels=channels, valid=valid, seed=settings.seed
    )
    model = new_network(network, data, settings.seed, weights)
    goal = build("objective", OBJECTIVES, objective, network=model)
    check_kind(goal, data, network)
    spec = goal.spec()
    how: dict[str, Any] = {"resume": resume, "max_minutes": max_minutes, "progress": progress}
    try:
        trained = train(goal, data, settings, folder=work, device=device, **how)
    except (ValueError, ArithmeticError):
        log = work / "log.jsonl"
        if not begun and not (log.exists() and log.stat().st_size):
            shutil.rmtree(work, ignore_errors=True)  # No epoch is lost; the name is free again.
        raise
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
        accuracy={"test": accuracy(trained, data.test)} if goal.classifies else {},
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
        network = networks.build(name, **fitting(data))
    if weights is not None:
        return networks.load_weights(network, weights)
    normalize = getattr(network, "normalize", None)
    if isinstance(normalize, networks.Normalize):
        mean, std = mean_std(data.train)
        normalize.mean.copy_(torch.tensor(mean).view(-1, 1, 1))
        normalize.std.copy_(torch.tensor(std).clamp_min(1e-3).view(-1, 1, 1))
    return network


def check_kind(objective: Objective, data: Data, name: str) -> None:
    """Raises where one of network and data labels pixels and the other whole images."""
    if not objective.classifies:
        return
    network, image = objective.network, data.train[0][0]
    with torch.no_grad(), evaluating(network):
        pixels = network(image[None].to(next(network.parameters()).device)).dim() == 4
    if pixels == per_pixel(data.train):
        return
    one, other = ("pixels", "whole images")[:: 1 if pixels else -1]
    advice = "such as cnn" if pixels else "such as ladder-small"
    raise ValueError(f"{name} labels {one} and the data label {other}; take a network {advice}")


def fitting(data: Data) -> dict[str, int]:
    """What a network must be given to fit the data, by the names of the factories' parameters."""
    adapter = data.adapter
    return {"classes": len(data.classes), "channels": adapter.channels, "size": adapter.size[0]}


DETECTORS = ("msp", "energy", "mahalanobis", "gemos")
"""What is evaluated when no detector is named and none is fitted yet."""


def evaluate_run(
    folder: str | os.PathLike[str],
    unknown: Sequence[str],
    detectors: Sequence[str],
    *,
    accept: float | None = None,
    metrics: Sequence[str] | None = None,
    trust: Sequence[str] = (),
    allow_leak: bool = False,
    command: str = "",
    device: str | torch.device | None = None,
) -> Results:
    """Evaluates models of a run on unknown data; see `openset evaluate` for the arguments."""
    from openset.report.latent import pictures  # Here, because drawing takes long to import.

    started = perf_counter()
    for name in metrics or ():
        find(name)
    run = Run.load(folder)
    network, data = run.load_network(trust).to(choose_device(device)), run.load_data()
    sets = unknown_sets(unknown, run.data, data)
    names = list(detectors or run.models or DETECTORS)
    models = {name: run.load_model(name, trust) for name in names if name in run.models}
    for model in models.values():
        if not allow_leak:
            refuse_leak(model.detector.tuned_on, sets)
    missing = [name for name in names if name not in models]
    if accept is not None:
        refuse_other_share(models, accept)
    if missing:
        models |= run.fit(missing, data, network, accept=0.95 if accept is None else accept)
    fitted = {name: models[name].detector for name in names}
    tap = Tap(network, layers_for(network, list(fitted.values())))
    results = evaluate(
        tap,
        fitted,
        data.test,
        sets,
        thresholds={name: t for name in names if (t := models[name].threshold) is not None},
        metrics=metrics or STANDARD,
        classes=run.classes,
        run=run.case,
    )
    results.notes |= run_notes(run, data, sets)
    results.notes |= {"Shown": " ".join(metrics)} if metrics else {}
    results.notes |= {"Command": command} if command else {}
    results.figures |= read_pictures(run.folder)
    results.figures |= pictures(tap, fitted.values(), data.test, sets, run.classes)
    results.notes["Wall time"] = minutes(perf_counter() - started)
    return results


def tune_run(
    folder: str | os.PathLike[str],
    detector: str,
    unknown: Sequence[str] = (),
    *,
    grid: str | None = None,
    accept: float = 0.95,
    tested_on: Sequence[str] = (),
    allow_leak: bool = False,
    limit: int | None = None,
    seed: int = 0,
    trust: Sequence[str] = (),
    device: str | torch.device | None = None,
) -> tuple[str, OpenSet, Tuned]:
    """Tunes a detector of a run and saves its model; see `openset tune` for the arguments.

    Returns:
        The name under which the model is saved, which tells the settings; the model; the search.
    """
    run = Run.load(folder)
    if not allow_leak:
        refuse_leak(unknown, tested_on)
    network, data = run.load_network(trust).to(choose_device(device)), run.load_data()
    sets = unknown_sets(unknown, run.data, data) if unknown else {}
    if detector in run.models:
        model = run.load_model(detector, trust)
        model.tap.to(choose_device(device))
    else:
        model = untuned(run, detector, data, network)
    settings = {"accept": accept, "allow_leak": True, "limit": limit, "seed": seed}
    model, tuned = tune_model(model, data.valid, sets, parse_grid(grid), **settings)
    name = changed_spec(detector, tuned.settings)
    model.save(run.model_folder(name))
    return name, model, tuned


def untuned(run: Run, name: str, data: Data, network: nn.Module) -> OpenSet:
    """A model to tune, fitted if its detector learns anything."""
    detector = build_detector(name)
    if type(detector).fit is Detector.fit:
        model = OpenSet(Tap(network, layers_for(network, [detector])), detector)
    else:
        model = fit(network, {name: detector}, data.train, data.valid)[name]
    model.classes, model.adapter = run.classes, Adapter.from_settings(run.adapter)
    return model


def parse_grid(text: str | None) -> dict[str, Sequence[Any]] | None:
    """The values of each setting from `temperature=1+10,epsilon=0+0.002`; None for the default."""
    if text is None:
        return None
    _, bare, keyed = parse(f"grid:{text}")
    if bare or not keyed:
        raise ValueError(f"the grid is {text!r}; expected SETTING=VALUE+VALUE,SETTING=VALUE")
    return {key: value if isinstance(value, tuple) else (value,) for key, value in keyed.items()}


def changed_spec(spec: str, settings: Mapping[str, Any]) -> str:
    """A detector's name with some of its settings changed: `odin:epsilon=0.002`."""
    name, bare, keyed = parse(spec)
    parts = [*map(str, bare), *(f"{k}={v}" for k, v in {**keyed, **settings}.items())]
    return f"{name}:{','.join(parts)}" if parts else name


def unknown_sets(names: Sequence[str], source: str, data: Data) -> dict[str, ImageSet]:
    """The unknown data that is named, or else the classes that the run left out of its source."""
    if names:
        for name in names:
            refuse_own(name, source, data)
        return {name: images.load_images(name, data.adapter) for name in names}
    if not len(data.unknown):
        raise ValueError("this run left no class out; name unknown data: --unknown DATA…")
    return {data.unknown.name: data.unknown}


def refuse_other_share(models: Mapping[str, OpenSet], accept: float) -> None:
    """Raises where a model was fitted to accept another share of known images than is asked."""
    for name, model in models.items():
        if model.threshold is not None and model.threshold.accept != accept:
            raise ValueError(
                f"{name} is fitted to accept {model.threshold.accept:g} of known images, not "
                f"{accept:g}; leave the share out, or fit it again with openset fit"
            )


def refuse_own(name: str, source: str, data: Data) -> None:
    """Raises where unknown data are the run's own, in which its known classes are."""
    if per_pixel(data.test) or not same_images(name, source):
        return
    left_out = "for the classes that it left out, name no unknown data; " * bool(len(data.unknown))
    raise ValueError(
        f"{name} is what this run was trained on, known classes and all; {left_out}"
        "otherwise name other data"
    )


def run_notes(run: Run, data: Data, sets: Mapping[str, ImageSet]) -> dict[str, str]:
    """What the report says of the run at its top."""
    counts = ", ".join(f"{name} ({len(unknown):,})" for name, unknown in sets.items())
    shares = ", ".join(f"{share:.2%} on {split}" for split, share in run.accuracy.items())
    found = {
        "Known": f"{run.data}, {len(run.classes)} classes: {', '.join(run.classes)}",
        "Images": f"{len(data.train):,} to train, {len(data.valid):,} held out for the "
        f"threshold, {len(data.test):,} to test",
        "Unknown": counts,
        "Network": f"{run.network['name']}, trained with {run.objective['name']}, seed {run.seed}",
        "Accuracy": shares,
        "Notes": " ".join(data.notes),
        "Machine": machine(),
    }
    return {name: text for name, text in found.items() if text}


def write_results(results: Results, folder: Path) -> None:
    """Writes the results and their report into a folder."""
    from openset.report import report  # Here, because drawing takes long to import.

    results.write(folder)
    report(results, folder / "report.html")
