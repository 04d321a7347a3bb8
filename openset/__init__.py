"""Open-set recognition and out-of-distribution detection for PyTorch.

A trained network answers with one of its classes whatever you show it. openset makes it answer a
known class or "unknown", per image and per pixel.

Every name here is imported when it is first asked for (PEP 562), so that `import openset` costs
next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openset import data, densities, detectors, networks, objectives
    from openset.activations import UNKNOWN, VOID, Activations
    from openset.evaluation.evaluate import evaluate
    from openset.evaluation.results import Results
    from openset.extractors.extract import extract
    from openset.extractors.perturb import Perturb
    from openset.extractors.store import Store
    from openset.extractors.tap import Tap
    from openset.life.add_class import add_class, undo_class
    from openset.life.discover import discover
    from openset.life.explain import explain
    from openset.life.monitor import Monitor
    from openset.model.fit import fit
    from openset.model.open_set import OpenSet
    from openset.model.predict import Answer
    from openset.model.rehearse import rehearse
    from openset.model.wrap import wrap
    from openset.moments import Moments
    from openset.reporting.page import report
    from openset.scoring.threshold import Threshold
    from openset.training.loop import train

    __version__: str

__all__ = [
    "UNKNOWN",
    "VOID",
    "Activations",
    "Answer",
    "Moments",
    "Monitor",
    "OpenSet",
    "Perturb",
    "Results",
    "Store",
    "Tap",
    "Threshold",
    "__version__",
    "add_class",
    "data",
    "densities",
    "detectors",
    "discover",
    "evaluate",
    "explain",
    "extract",
    "fit",
    "networks",
    "objectives",
    "rehearse",
    "report",
    "train",
    "undo_class",
    "wrap",
]

_PLACES = {
    "UNKNOWN": "openset.activations",
    "VOID": "openset.activations",
    "Activations": "openset.activations",
    "evaluate": "openset.evaluation.evaluate",
    "Results": "openset.evaluation.results",
    "extract": "openset.extractors.extract",
    "Perturb": "openset.extractors.perturb",
    "Store": "openset.extractors.store",
    "Tap": "openset.extractors.tap",
    "add_class": "openset.life.add_class",
    "undo_class": "openset.life.add_class",
    "discover": "openset.life.discover",
    "explain": "openset.life.explain",
    "Monitor": "openset.life.monitor",
    "fit": "openset.model.fit",
    "OpenSet": "openset.model.open_set",
    "Answer": "openset.model.predict",
    "rehearse": "openset.model.rehearse",
    "wrap": "openset.model.wrap",
    "Moments": "openset.moments",
    "report": "openset.reporting.page",
    "Threshold": "openset.scoring.threshold",
    "train": "openset.training.loop",
}
"""The module of each name that is no folder of openset itself."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("openset")
        except PackageNotFoundError:
            return "uninstalled"  # Run from a checkout by PYTHONPATH, it has no metadata.
    if name in _PLACES:
        value = getattr(import_module(_PLACES[name]), name)
    elif name in __all__:
        value = import_module(f"openset.{name}")
    else:
        raise AttributeError(f"openset has no {name!r}; there are: {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
