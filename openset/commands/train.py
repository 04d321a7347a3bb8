"""`openset train`."""

from __future__ import annotations

from pathlib import Path

from openset.commands.options import Device, Devices, Interpolation, Resize, Training, sides
from openset.commands.screen import say
from openset.training.settings import Settings


def train(
    data: str,
    *,
    out: Path,
    network: str = "cnn",
    objective: str = "cross-entropy",
    known_classes: str | None = None,
    unknown_classes: str | None = None,
    size: str | None = None,
    channels: int | None = None,
    resize: Resize = "stretch",
    interpolation: Interpolation = "bilinear",
    valid: float = 0.1,
    weights: Path | None = None,
    skip_bad: bool = False,
    resume: bool = False,
    max_minutes: float | None = None,
    device: Device = None,
    devices: Devices = None,
    settings: Training = Settings(),  # noqa: B008
) -> None:
    """Train a network on the known classes of a data set.

    Args:
        data: `digits`, a hub id such as `ylecun/mnist`, or a folder of images.
        out: Folder for the run; an unfinished run waits beside it for `--resume`.
        network: Name of the network; see `openset list networks`.
        objective: Name of the training method; see `openset list objectives`.
        known_classes: Classes to know, such as `0-5` or `cat,dog`; the others stay unknown.
        unknown_classes: Instead: classes to leave out, such as `Pedestrian,Bicyclist`.
        size: Side of every image, or height and width as `360x640`; as stored by default.
        channels: 1 or 3; as stored by default.
        resize: Treatment of images of another aspect ratio than `--size`.
        interpolation: Filter for resizing.
        valid: Share of the training images held out for the threshold.
        weights: Weights to start from (safetensors or a state dict); `--epochs 0` keeps them.
        skip_bad: Leave out images that cannot be read; the report counts and names them.
        resume: Go on where an interrupted run stopped.
        max_minutes: Stop at a checkpoint after so many minutes; `--resume` goes on.
        settings: The training settings.
    """
    from openset.runs.recipe import Recipe
    from openset.runs.train import train_run
    from openset.scale.launch import together

    if unknown_classes is not None:
        if known_classes is not None:
            raise ValueError("give --known-classes or --unknown-classes, not both")
        known_classes = f"not {unknown_classes}"
    recipe = Recipe(
        data=data,
        known_classes=known_classes,
        size=sides(size),
        channels=channels,
        resize=resize,
        interpolation=interpolation,
        valid=valid,
        network=network,
        objective=objective,
        weights=weights,
        skip_bad=skip_bad,
        settings=settings,
    )
    with together(devices, device) as own:
        run = train_run(recipe, out, resume=resume, max_minutes=max_minutes, device=own)
        shares = [f"accuracy: {split} {share:.2%}" for split, share in run.accuracy.items()]
        say("; ".join([*shares, f"run: {out}"]))
        if run.warning:
            say(f"warning: {run.warning}")
