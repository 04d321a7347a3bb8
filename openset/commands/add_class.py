"""`openset add-class`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from openset.commands.options import Device, Network, Trust
from openset.commands.screen import say


def add_class(
    model: Path,
    images: Annotated[list[str] | None, Parameter(negative="")] = None,
    *,
    name: str | None = None,
    out: Path,
    group: str | None = None,
    held_out: str | None = None,
    undo: bool = False,
    detector: str | None = None,
    device: Device = None,
    trust: Trust = None,
    network: Network = None,
) -> None:
    """Let a model know one more class from a handful of images, without training.

    Args:
        model: A model's folder or file, or a run with `--detector`; its detector must be
            mahalanobis, knn, vmdls-b or gemos.
        images: Files, folders and globs: images of the new class, 3 or more; 20 are better.
        name: Name of the new class.
        out: Folder for the new model; the model's own replaces it.
        group: A group that `openset discover` found, in place of images: FOLDER:NUMBER.
        held_out: Held-out known images of all classes so far, to set the threshold from. By default
            those of the run, or else the scores that the model keeps of them.
        undo: Take the class that was added last out again.
        detector: The detector of a run whose model learns the class.
    """
    from openset.data.splits import load_known
    from openset.life.add_class import add_class as add
    from openset.life.add_class import undo_class as take_out
    from openset.life.discover import group_files
    from openset.networks.device import choose_device
    from openset.runs.run import Run, load_model

    given = [images or None, group]
    if undo and (name or any(given)):
        raise ValueError("--undo takes out what was added last; give no name and no images")
    if not undo and (name is None or given.count(None) != 1):
        raise ValueError("give the new class's --name, and its images or a --group of them")
    loaded = load_model(model, detector, trust or (), network)
    loaded.tap.to(choose_device(device))
    if undo:
        take_out(loaded).save(out)
        say(f"model: {out}")
        return
    known = None
    if held_out is not None:
        if loaded.classes is None or loaded.adapter is None:
            raise ValueError("this model names no classes or no adapter, so --held-out has no use")
        known = load_known(held_out, loaded.classes, loaded.adapter)
    elif (model / "run.json").exists():
        known = Run.load(model).load_data().valid
    added = add(loaded, str(name), group_files(group) if group else images, known)
    added.model.save(out)
    for line in added.said():
        say(line)
    say(f"model: {out}")
