"""Open-set recognition and out-of-distribution detection for PyTorch.

A trained network answers with one of its classes whatever you show it. openset makes it answer a
known class or "unknown", per image and per pixel.
"""

from openset import data, densities, detectors, networks, objectives
from openset.activations import UNKNOWN, VOID, Activations
from openset.evaluate import evaluate
from openset.fit import fit
from openset.model import OpenSet
from openset.moments import Moments
from openset.report import report
from openset.results import Results
from openset.store import Store, extract
from openset.tap import Perturb, Tap
from openset.threshold import Threshold
from openset.train import train

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
