"""`openset discover`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from openset.commands.options import Device, Network, Trust
from openset.commands.screen import say


def discover(
    model: Path,
    images: Annotated[list[str], Parameter(negative="")],
    *,
    out: Path,
    detector: str | None = None,
    least: int | None = None,
    device: Device = None,
    trust: Trust = None,
    network: Network = None,
) -> None:
    """Group the images that a model calls unknown, and show what each group looks like.

    A group that turns out to be a class of its own can be added: openset add-class.

    Args:
        model: A model's folder or file, or a run with `--detector`.
        images: Files, folders and globs.
        out: Folder for `groups.html`, which shows the most typical images of each group, and
            `groups.csv`.
        detector: The detector of a run whose model answers.
        least: Images of a group, at least; by default a hundredth of those rejected, or 10.
    """
    from openset.life.discover import discover as find
    from openset.life.discover import write_groups
    from openset.networks.device import choose_device
    from openset.runs.run import load_model

    loaded = load_model(model, detector, trust or (), network)
    loaded.tap.to(choose_device(device))
    found = find(loaded, images, least)
    which = ["--detector", detector] if detector else []
    command = shlex.join(["openset", "add-class", str(model), *which, "--group", f"{out}:"])
    command += "{group} --name {name} --out NEW"
    write_groups(found, out, loaded, images, command)
    for i, group in enumerate(found.groups, 1):
        say(f"group {i}: {len(group)} images, nearest known class {group.usual}")
    for line in found.said():
        say(line)
    say(f"groups: {out / 'groups.html'}")
