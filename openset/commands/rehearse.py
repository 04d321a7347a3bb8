"""`openset rehearse`."""

from __future__ import annotations

from pathlib import Path

from openset.commands.options import Device, Places, Trust
from openset.commands.screen import say, show


def rehearse(
    run: Path,
    *,
    detector: Places = [],  # noqa: B006
    kind: Places = [],  # noqa: B006
    out: Path | None = None,
    held_out: str | None = None,
    device: Device = None,
    trust: Trust = None,
) -> None:
    """Estimate from known images alone how well each detector would do, and recommend one.

    Held-out known images are compared with stand-ins for unknown ones, made from other held-out
    images: noisy, blurred, shuffled, inverted, of random phase, of another's amplitude, and turned.

    Args:
        run: Folder that `openset train` or `openset import` wrote.
        detector: Detectors with settings; by default those that `openset fit --detector auto`
            chooses from.
        kind: Kinds of stand-ins; by default all.
        out: A CSV file for the AUROC of each detector and kind, its deviation and its p-value.
        held_out: Known images that the network has not seen, in place of those of the run.
    """
    from openset.data.stand_ins import KINDS
    from openset.files import complete_file
    from openset.networks.device import choose_device
    from openset.runs.rehearse import rehearse_run
    from openset.runs.run import Run

    of = Run.load(run)
    network = of.load_network(trust or ()).to(choose_device(device))
    how = {"kinds": kind or tuple(KINDS), "held_out": held_out}
    found = rehearse_run(of, detector, of.load_data(), network, **how)
    show(found.table())
    say(found.recommendation())
    if out is not None:
        with complete_file(out) as partial:
            partial.write_text(found.csv(), encoding="utf-8")
