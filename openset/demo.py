"""The whole job on data that comes with scikit-learn, in about a minute."""

from __future__ import annotations

from pathlib import Path

from openset.job import evaluate_run, train_run
from openset.results import Results
from openset.train import Settings

DETECTORS = ("msp", "energy", "mahalanobis", "odin", "gemos:components=1")


def demo(out: Path, seed: int = 0) -> Results:
    """Trains on six digit classes, fits, calibrates, evaluates on the other four and reports.

    The run lies in `out/run`, the results in `out/results`.
    """
    settings = Settings(epochs=30, batch_size=64, lr=0.05, augment="crop", seed=seed)
    train_run("digits", out / "run", known_classes="0-5", valid=0.2, settings=settings)
    return evaluate_run(out / "run", [], DETECTORS, out / "results")
