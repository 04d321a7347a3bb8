"""Rehearse the detectors of a run, and choose one by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from openset.data import Data, ImageSet
from openset.data.stand_ins import KINDS
from openset.errors import LackingError
from openset.extractors.extract import stream
from openset.model.fit import fit
from openset.model.rehearse import Rehearsal, rehearse
from openset.runs.run import OWN, Run, build_detector
from openset.scoring.views import tap_for

AUTO = "auto"
"""Stands, in place of a detector's name, for the one that a rehearsal recommends."""

CANDIDATES = (
    "energy",
    "gen",
    "knn:max_rows=10000",
    "vim",
    "react",
    "pnml",
    "fdbd",
    "mahalanobis-plus-plus",
    "gemos:components=1,layers=stage1+stage2",
    "fusion",
    "fusion:weights=mistakes",
)
"""The detectors that `auto` chooses from, and that a rehearsal shows where none is named.

Those that a network does not suit, as it has no stages or no linear head, are left out.
"""


PROBED = 8
"""Training images that are shown to a detector to see whether it finds what it reads."""


def rehearse_run(
    run: Run,
    detectors: Iterable[str],
    known: Data,
    network: nn.Module,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    held_out: str | None = None,
) -> Rehearsal:
    """Fits detectors by their names to a run's network and rehearses them; keeps no model.

    Args:
        run: The run.
        detectors: Names with settings; `CANDIDATES` if there are none.
        known: The run's data.
        network: The run's network.
        kinds: Kinds of stand-ins.
        held_out: Held-out known images, as `Run.load_held_out` takes them.
    """
    names = list(detectors) or able(CANDIDATES, network, known.train)
    named = {name: build_detector(name) for name in names}
    unseen = run.load_held_out(held_out or OWN, known)
    # Half of what sets a threshold suffices for this one, which nobody uses.
    models = fit(network, named, known.train, unseen, accept=0.5)
    return rehearse(models, unseen, kinds)


def able(names: Iterable[str], network: nn.Module, images: ImageSet) -> list[str]:
    """Those of the detectors that find on a network what they read."""
    few, found = images.subset(range(min(PROBED, len(images)))), []
    for name in names:
        detector = build_detector(name)
        try:
            seen = list(stream(tap_for(network, [detector], refit=True), few))
            detector.fit(seen).score(seen[0])
        except LackingError:
            continue
        except ValueError:
            pass  # Too few images to fit on, which here they are.
        found.append(name)
    return found
