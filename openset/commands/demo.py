"""`openset demo`."""

from __future__ import annotations

from pathlib import Path

from openset.commands.options import Device
from openset.commands.screen import show_results
from openset.evaluation.results import FILES
from openset.files import complete_folder
from openset.runs.evaluate import evaluate_run, write_results
from openset.runs.recipe import Recipe
from openset.runs.train import train_run
from openset.training.settings import Settings


def demo(out: Path = Path("demo"), *, seed: int = 0, device: Device = None) -> None:
    """Try openset on built-in images of digits: 0 to 5 are known, 6 to 9 unknown.

    Trains a small network, fits and calibrates detectors, evaluates them and writes a report. The
    folder is complete or absent.

    Args:
        out: Folder for the run, `results.csv` and `report.html`.
        seed: Seed of the held-out images and the training.
    """
    settings = Settings(
        epochs=40, batch_size=64, optimizer="adam", lr=0.002, weight_decay=1e-4, seed=seed
    )
    recipe = Recipe("digits", known_classes="0-5", valid=0.2, settings=settings)
    detectors = ("msp", "energy", "mahalanobis", "odin", "gemos:components=1")
    with complete_folder(out, owns=("run", *FILES)) as partial:
        run = partial / "run"
        train_run(recipe, run, device=device)
        results = evaluate_run(run, [], detectors, device=device)
        write_results(results, partial)
    show_results(results.table(), out)
