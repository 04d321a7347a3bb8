"""`openset import`."""

from __future__ import annotations

from pathlib import Path

from openset.commands.options import Device, sides
from openset.commands.screen import say


def import_network(
    network: str,
    *,
    out: Path,
    data: str | None = None,
    classes: str | None = None,
    weights: Path | None = None,
    outputs: str | None = None,
    held_out: str | None = None,
    known_classes: str | None = None,
    size: str | None = None,
    channels: int | None = None,
    valid: float = 0.1,
    skip_bad: bool = False,
    device: Device = None,
) -> None:
    """Turn a network that was trained elsewhere into a run, as `openset train` writes one.

    Args:
        network: `timm:NAME`, `torchvision:NAME`, `transformers:NAME`, a name of
            `openset list networks`, or your own: `eff:make` for the function `make` of `eff.py`.
        out: Folder for the run, which every other command takes.
        data: The images that it was trained on, as for `openset train`.
        classes: In place of data, its classes: how many, such as `19`, names such as `cat,dog`, or
            a file of them, one a line. Detectors that must be fitted need data.
        weights: Its weights: safetensors, a state dict, or a checkpoint of Lightning or a training
            script. Without, those that the network comes with.
        outputs: Its outputs that stand for the data's classes, such as `0,217,482`, or a file of
            all its class names; by default its outputs are the data's classes, in this order.
        held_out: Known images that no training has seen, to set thresholds from: a data string, or
            `valid` for those that the data set itself holds out, if you vouch for them; or a part
            of the test images, such as `imagenette:test[:50%]`, and the others are left to test on.
            Without, no threshold guarantees anything.
        known_classes: Classes that it knows, in the order of its outputs, such as `0-5` or
            `cat,dog`.
        size: Side of its images, or height and width as `360x640`; by default as its library
            prepares them, such as timm, or as they are stored.
        channels: 1 or 3; as stored by default.
        valid: Share of the training images set apart, where the data set holds none out.
        skip_bad: Leave out images that cannot be read; the report counts and names them.
    """
    from openset.runs.imported import import_run
    from openset.runs.recipe import Recipe

    recipe = Recipe(
        data=data,
        known_classes=known_classes,
        size=sides(size),
        channels=channels,
        valid=valid,
        network=network,
        weights=weights,
        skip_bad=skip_bad,
    )
    how = {"classes": classes, "outputs": outputs, "held_out": held_out, "device": device}
    run = import_run(recipe, out, **how)
    shares = [f"accuracy: {split} {share:.2%}" for split, share in run.accuracy.items()]
    say("; ".join([f"{run.origin}: {len(run.classes)} classes", *shares, f"run: {out}"]))
    if run.warning:
        say(f"warning: {run.warning}")
    if run.recipe.data is None and held_out is None:
        say("it has no threshold; for one, name known images that it has not seen: --held-out DATA")
    elif run.doubt:
        say(
            f"no threshold will guarantee anything: {run.doubt}; name images that none has: "
            "--held-out DATA"
        )
