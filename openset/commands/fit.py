"""`openset fit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from openset.commands.options import Device, Devices, Network, Places, Trust
from openset.commands.screen import say

if TYPE_CHECKING:
    from openset.model.open_set import OpenSet


def fit(
    run: Path,
    *,
    detector: Places,
    accept: float = 0.95,
    per_class: bool = False,
    held_out: str | None = None,
    device: Device = None,
    devices: Devices = None,
    trust: Trust = None,
    network: Network = None,
) -> None:
    """Fit detectors to a trained network and set their thresholds from known data alone.

    Args:
        run: Folder that `openset train` or `openset import` wrote.
        detector: Detectors with settings, such as `energy` or `gemos:components=4`; `auto` for the
            one that a rehearsal on known images alone recommends (`openset rehearse`).
        accept: Share of known images to accept.
        per_class: Set one threshold for each predicted class.
        held_out: Data to set thresholds from: known images, under the run's class names, that the
            network has not seen. By default those that the run held out; a network that started
            from `--weights` may have seen them, and then nothing is guaranteed, unless you vouch
            for them by `--held-out valid`.
    """
    from openset.runs.rehearse import AUTO, CANDIDATES, rehearse_run
    from openset.runs.run import Run
    from openset.scale.launch import together

    known = Run.load(run)
    with together(devices, device) as own:
        its_network = known.load_network(trust or (), network).to(own)
        names = list(detector)
        if AUTO in names:
            data = known.load_data()
            found = rehearse_run(known, CANDIDATES, data, its_network, held_out=held_out)
            say(found.recommendation())
            names = [found.best if name == AUTO else name for name in names]
        how = {"accept": accept, "per_class": per_class, "held_out": held_out}
        for name, model in known.fit(names, None, its_network, **how).items():
            _tell(name, model)
            say(f"model: {known.model_folder(name)}")


def _tell(name: str, model: OpenSet) -> None:
    """Says what the threshold of a model guarantees."""
    if model.threshold is None:
        say(f"{name}: no threshold, as no known images are held out; name some: --held-out DATA")
        return
    say(f"{name}: {model.threshold.guarantee()}")
    if model.threshold.doubt:
        say("name images that it has not seen: --held-out DATA")
