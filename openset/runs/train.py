"""Train a network into a run."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openset.data import Data
from openset.data.loaders import batches, per_pixel
from openset.networks.outputs import logits_of
from openset.networks.watch import evaluating
from openset.processes import here
from openset.runs.recipe import Recipe
from openset.runs.run import Run
from openset.training.loop import accuracy, train


def train_run(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    max_minutes: float | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    beside: Mapping[str, Path] | None = None,
) -> Run:
    """Trains a network by a recipe and writes the run.

    Until it is complete the run lies beside `out`, as `.NAME.unfinished`, for `resume`.

    Args:
        recipe: The data, the network and the training.
        out: The new folder of the run.
        resume: Whether to go on with an unfinished run; without one a run is begun.
        max_minutes: After so many minutes a checkpoint is written and `Paused` raised.
        progress: Whether to draw a progress bar.
        device: Where to train, as `choose_device` takes it.
        beside: Folders of runs whose networks the objective takes, by its settings' names.

    Raises:
        ValueError: For data, names and settings that do not exist or do not fit each other, for a
            folder that is already there, and for a loss that is NaN or infinite.
        Paused: If `max_minutes` have passed.
    """
    if recipe.settings.epochs == 0 and recipe.weights is None:
        raise ValueError("0 epochs keep the weights as they are; name them, or train for longer")
    out = Path(out)
    work = unfinished(out)
    here().once(lambda: check_place(out, work, resume))
    data = recipe.load_data()
    given: dict[str, Any] = dict(beside or {})
    objective = recipe.build_objective(data, **given)
    if objective.classifies:
        check_pixels(objective.network, data, recipe.network)
    spec = objective.spec()
    how: dict[str, Any] = {"resume": resume, "max_minutes": max_minutes, "progress": progress}
    with _nothing_left_of_no_epoch(work):
        trained = train(objective, data, recipe.settings, folder=work, device=device, **how)
    shares = {"test": accuracy(trained, data.test)} if objective.classifies else {}
    run = Run(
        folder=work,
        recipe=recipe,
        classes=data.classes,
        adapter=data.adapter,
        network=getattr(trained, "spec", None) or {},
        objective=spec,
        accuracy=shares,
        warning=collapse(shares["test"], data.test, len(data.classes)) if shares else None,
    )
    here().once(lambda: _complete(run, out))
    run.folder = out
    return run


def _complete(run: Run, out: Path) -> None:
    """Writes the description of a run, and puts it in its place."""
    run.save()
    out.parent.mkdir(parents=True, exist_ok=True)
    run.folder.rename(out)


def collapse(accuracy: float, test: Any, classes: int) -> str | None:
    """A sentence on a network that is no better than one answer for all; None if it is.

    See `of_chance` for the arguments.
    """
    chance = of_chance(accuracy, test, classes)
    if chance is None:
        return None
    return (
        f"the network has learned nothing: {chance}; train for more epochs, with a lower lr, or "
        "with clip_norm 1"
    )


def of_chance(accuracy: float, test: Any, classes: int) -> str | None:
    """The accuracy beside that of one answer for all, in words; None if it is above chance.

    Fewer than 1 of 40 that answer alike are as right as the bound, two standard errors above the
    share of the commonest class.

    Args:
        accuracy: The share of the test images, or pixels, that are right.
        test: The test images with labels; those below 0 do not count.
        classes: The number of known classes.
    """
    counts = torch.zeros(classes)
    for _, label in batches(test):
        counts += label[label >= 0].bincount(minlength=classes)
    share = float(counts.max() / counts.sum())
    if classes == 1 or accuracy > share + 2 * math.sqrt(share * (1 - share) / float(counts.sum())):
        return None
    return (
        f"{accuracy:.1%} of the test images are right, where one answer for all gives {share:.1%}"
    )


def unfinished(out: Path) -> Path:
    """The folder in which a run lies until it is complete."""
    return out.with_name(f".{out.name}.unfinished")


def check_place(out: Path, work: Path, resume: bool) -> None:
    """Raises where a run, or anything else, is already there."""
    if out.exists():
        raise ValueError(f"{out} already exists; name another folder, or remove it")
    if work.exists() and not resume:
        raise ValueError(
            f"an unfinished run of {out} is there ({work}); go on with --resume, or remove it"
        )


@contextmanager
def _nothing_left_of_no_epoch(work: Path) -> Iterator[None]:
    """Removes the folder of a run that failed in its first epoch, so that its name is free."""
    begun = work.exists()
    try:
        yield
    except (ValueError, ArithmeticError, OSError):
        log = work / "log.jsonl"
        if here().first and not begun and not (log.exists() and log.stat().st_size):
            shutil.rmtree(work, ignore_errors=True)
        raise


def check_pixels(network: nn.Module, data: Data, name: str) -> None:
    """Raises where one of network and data labels pixels and the other whole images."""
    image = data.train[0][0]
    with torch.no_grad(), evaluating(network):
        logits = logits_of(network(image[None].to(next(network.parameters()).device)))
        pixels = logits.dim() == 4
    if pixels == per_pixel(data.train):
        return
    one, other = ("pixels", "whole images")[:: 1 if pixels else -1]
    advice = "such as cnn" if pixels else "such as ladder-small"
    raise ValueError(f"{name} labels {one} and the data label {other}; take a network {advice}")
