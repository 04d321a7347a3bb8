"""The whole job on data that comes with scikit-learn, in about a minute."""

from __future__ import annotations

from pathlib import Path

from openset.folders import complete_folder
from openset.job import evaluate_run, train_run, write_results
from openset.results import FILES, Results
from openset.train import Settings

DETECTORS = ("msp", "energy", "mahalanobis", "odin", "gemos:components=1")


def demo(out: Path, seed: int = 0) -> Results:
    """Trains on six digit classes, fits, calibrates, evaluates on the other four and reports.

    The folder gets `run`, `results.csv` and `report.html`; it is complete or absent.
    """
    settings = Settings(epochs=30, batch_size=64, lr=0.05, augment="crop", seed=seed)
    with complete_folder(out, owns=("run", *FILES)) as partial:
        train_run("digits", partial / "run", known_classes="0-5", valid=0.2, settings=settings)
        results = evaluate_run(partial / "run", [], DETECTORS)
        write_results(results, partial)
    return results
