"""Open-set recognition and out-of-distribution detection for PyTorch.

A trained network answers with one of its classes whatever you show it. openset makes it answer a
known class or "unknown", per image and per pixel.
"""

from openset import data, densities, detectors, networks, objectives
from openset.activations import UNKNOWN, VOID, Activations
from openset.evaluation.evaluate import evaluate
from openset.evaluation.results import Results
from openset.extractors.extract import extract
from openset.extractors.perturb import Perturb
from openset.extractors.store import Store
from openset.extractors.tap import Tap
from openset.model.fit import fit
from openset.model.open_set import OpenSet
from openset.moments import Moments
from openset.reporting import report
from openset.scoring.threshold import Threshold
from openset.training.loop import train

__all__ = [
    "UNKNOWN",
    "VOID",
    "Activations",
    "Moments",
    "OpenSet",
    "Perturb",
    "Results",
    "Store",
    "Tap",
    "Threshold",
    "data",
    "densities",
    "detectors",
    "evaluate",
    "extract",
    "fit",
    "networks",
    "objectives",
    "report",
    "train",
]
