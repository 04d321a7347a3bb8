"""`openset explain`."""

from __future__ import annotations

from pathlib import Path

from openset.commands.options import Device, Network, Trust
from openset.commands.screen import say, show


def explain(
    model: Path,
    image: str,
    *,
    detector: str | None = None,
    out: Path | None = None,
    device: Device = None,
    trust: Trust = None,
    network: Network = None,
) -> None:
    """Say why a model answers as it does about one image.

    Of a fusion, what each member says; of gemos and vmdls-b, what each layer adds; of knn, which
    training images are nearest; of a model that labels pixels, the map of scores. A run also tells
    how rare each layer's part is among the known images that it held out.

    Args:
        model: A model's folder or file, or a run with `--detector`.
        image: An image file.
        detector: The detector of a run whose model answers.
        out: A page to write (.html).
    """
    from openset.life.explain import explain as tell
    from openset.life.explain import write_explanation
    from openset.networks.device import choose_device
    from openset.runs.run import Run, load_model

    loaded = load_model(model, detector, trust or (), network)
    loaded.tap.to(choose_device(device))
    run = Run.load(model) if (model / "run.json").exists() else None
    data = None if run is None or run.recipe.data is None else run.load_data()
    known, train = (None, None) if data is None else (data.valid, data.train)
    told = tell(loaded, image, known, train)
    show(told.table())
    for one in told.nearest:
        say(f"near, at {one.distance:.3g}: {one.path or f'row {one.row}'}")
    if out is not None:
        write_explanation(told, out, loaded, train)
        say(f"page: {out}")
