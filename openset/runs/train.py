"""The jobs behind the commands: train into a run, tune and evaluate detectors of a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openset import data as images
from openset import networks
from openset.data import Data, mean_std
from openset.data.loaders import per_pixel
from openset.networks.watch import evaluating
from openset.objectives import OBJECTIVES
from openset.objectives.base import Objective
from openset.runs.run import Run
from openset.spec import build
from openset.training.loop import accuracy, train
from openset.training.settings import Settings


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
