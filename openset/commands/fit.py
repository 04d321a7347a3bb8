"""`openset fit`."""

from __future__ import annotations

from pathlib import Path

from openset.commands.options import Device, Places, Trust
from openset.commands.screen import say


def fit(
    run: Path,
    *,
    detector: Places,
    accept: float = 0.95,
    per_class: bool = False,
    device: Device = None,
    trust: Trust = None,
) -> None:
    """Fit detectors to a trained network and set their thresholds from known data alone.

    Args:
        run: Folder that `openset train` wrote.
        detector: Detectors with settings, such as `energy` or `gemos:components=4`.
        accept: Share of known images to accept.
        per_class: Set one threshold for each predicted class.
    """
    from openset.networks.device import choose_device
    from openset.runs.run import Run

    known = Run.load(run)
    network = known.load_network(trust or ()).to(choose_device(device))
    models = known.fit(detector, known.load_data(), network, accept=accept, per_class=per_class)
    for name, model in models.items():
        assert model.threshold is not None
        say(f"{name}: {model.threshold.guarantee()}")
        say(f"model: {known.model_folder(name)}")
