"""`openset predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from openset.commands.options import Device, Network, Trust
from openset.commands.screen import say


def predict(
    model: Path,
    images: Annotated[list[str], Parameter(negative="")],
    *,
    detector: str | None = None,
    out: Path | None = None,
    report: Path | None = None,
    accept: float | None = None,
    threshold: float | None = None,
    fdr: float | None = None,
    storey: bool = False,
    skip_bad: bool = False,
    cluster: bool = False,
    probabilities: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    device: Device = None,
    trust: Trust = None,
    network: Network = None,
) -> None:
    """Label image files, or call them unknown.

    A model that labels pixels writes a label map, a score map and an overlay of each image.

    Args:
        model: A model's folder or file, or a run with `--detector`.
        images: Files, folders and globs; with `--cluster` also Parquet, WebDataset's tar shards,
            and URLs such as `s3://bucket/photos`.
        detector: The detector of a run whose model answers.
        out: File to write (.csv, .jsonl or .parquet); by default CSV goes to the screen. For a
            model that labels pixels, or with `--cluster`, a folder.
        report: Page to write (.html) that shows what was called unknown, and what another threshold
            would say.
        accept: Accept another share of known images than the model was calibrated for; it follows
            from the held-out scores that the model keeps.
        threshold: Call an image unknown above this score, which carries no guarantee.
        fdr: Judge all images together: of those called unknown at most this share is known, on
            average (Benjamini–Hochberg). It needs no threshold.
        storey: With `--fdr`, estimate how many images are known, which finds more unknown ones
            where there are many.
        skip_bad: Leave out files that cannot be read, and count them. Otherwise the readable ones
            are answered too, and the command then ends with an error that names the others.
        cluster: Answer by the workers of a Ray cluster, that of `RAY_ADDRESS` or one on this
            machine, into a folder of Parquet files, with maps beside them where pixels are
            labelled; the same command goes on after a crash.
        probabilities: Add each known class's probability.
        batch_size: Images per pass.
        workers: Threads that decode images; by default one a core.
    """
    from openset.networks.device import choose_device
    from openset.runs.run import load_model

    loaded = load_model(model, detector, trust or (), network)
    options: dict[str, Any] = {
        "report": report, "accept": accept, "threshold": threshold, "fdr": fdr, "storey": storey,
        "skip_bad": skip_bad, "probabilities": probabilities, "batch_size": batch_size,
        "workers": workers,
    }  # fmt: skip
    if cluster:
        from openset.scale.predict import predict_cluster

        said = predict_cluster(loaded, images, out, device=device, **options)
    else:
        from openset.model.predict_files import predict_files

        loaded.tap.to(choose_device(device))
        said = predict_files(loaded, images, out, **options)
    for line in said:
        say(line)
