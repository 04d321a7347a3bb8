"""Tune the detectors of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from openset.data import Data
from openset.model.fit import fit
from openset.model.open_set import OpenSet
from openset.model.tune import Tuned, refuse_leak, tune_model
from openset.networks.device import choose_device
from openset.runs.evaluate import unknown_sets
from openset.runs.run import Run
from openset.scoring.views import tap_for
from openset.spec import parse


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
    network: str | None = None,
    device: str | torch.device | None = None,
) -> tuple[str, OpenSet, Tuned]:
    """Tunes a detector of a run and saves its model; see `openset tune` for the arguments.

    Returns:
        The name under which the model is saved, which tells the settings; the model; the search.
    """
    run = Run.load(folder)
    if not allow_leak:
        refuse_leak(unknown, tested_on)
    its_network = run.load_network(trust, network).to(choose_device(device))
    data = run.load_data()
    sets = unknown_sets(unknown, run, data) if unknown else {}
    if detector in run.models:
        model = run.load_model(detector, trust, its_network)
    else:
        model = untuned(run, detector, data, its_network)
    settings = {"accept": accept, "allow_leak": True, "limit": limit, "seed": seed}
    model, tuned = tune_model(model, data.valid, sets, parse_grid(grid), **settings)
    name = changed_spec(detector, tuned.settings)
    model.name = name
    model.doubt(run.doubt)
    model.save(run.model_folder(name))
    return name, model, tuned


def untuned(run: Run, name: str, data: Data, network: nn.Module) -> OpenSet:
    """A model to tune, fitted if its detector learns anything."""
    detector = run.build_detector(name)
    if not detector.learns:
        model = OpenSet(tap_for(network, [detector]), detector)
    else:
        model = fit(network, {name: detector}, data.train, data.valid)[name]
    model.classes, model.adapter = run.classes, run.adapter
    return model


def parse_grid(text: str | None) -> dict[str, Sequence[Any]] | None:
    """Reads the values of each setting from `temperature=1+10,epsilon=0+0.002`; None stays None."""
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
