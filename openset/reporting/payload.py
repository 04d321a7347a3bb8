"""What the page's script reads: scores, thresholds and images of the results, as plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from openset.evaluation.results import Results
from openset.evaluation.rows import Case
from openset.pictures import palette
from openset.reporting.arrays import Arrays
from openset.reporting.axes import axis
from openset.reporting.choice import auroc_of, first_shown, set_names
from openset.reporting.images import Shown, maps_of
from openset.reporting.positions import positions
from openset.scoring.held_out import HeldOut
from openset.scoring.scored import Scored
from openset.scoring.threshold import ThresholdRecord

SCORES = 300_000
"""The most scores on a page, of all detectors and sets; of more, a sample drawn by a seed."""


def payload(
    results: Results, cases: Sequence[Case], names: Sequence[str], *, truth: bool = True
) -> dict[str, Any]:
    """All that the page's script needs.

    Args:
        results: The results.
        cases: Those of its cases that the page shows.
        names: How the page calls them.
        truth: Whether it is known which images are unknown.
    """
    arrays, runs = Arrays(), list(dict.fromkeys(case.run for case in cases))
    kept = share_kept(results, cases)
    shown = {run: Shown(results, run, arrays) for run in runs}
    dense = any(case in results.maps for case in cases)
    return {
        "unit": "pixels" if dense else "images",
        "truth": truth,
        "first": first_shown(results, cases),
        "runs": [_run(results, cases, run, kept) | shown[run].record() for run in runs],
        "cases": [
            {"run": runs.index(case.run), "name": name}
            | _case(results, case, kept, arrays)
            | {"gallery": shown[case.run].answers(case)}
            for case, name in zip(cases, names, strict=True)
        ],
        "palette": palette(most_classes(results, cases)).tolist() if dense else [],
        "arrays": arrays.stored,
    }


def share_kept(results: Results, cases: Sequence[Case]) -> float:
    """The share of each set's scores that a page of bounded size can hold."""
    total = sum(len(scored) for case in cases for scored in results.scored[case].values())
    return min(1.0, SCORES / max(total, 1))


def sample(count: int, share: float) -> Tensor | None:
    """The indices of a seeded sample, ascending; None for all."""
    if share == 1:
        return None
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return chosen[: max(1, int(share * count))].sort().values


def most_classes(results: Results, cases: Sequence[Case]) -> int:
    """The classes of the network that knows the most."""
    return max((len(class_names(results, case)) for case in cases), default=0)


def class_names(results: Results, case: Case) -> list[str]:
    """The names of the known classes, or their numbers if nobody named them."""
    if case.run in results.classes:
        return list(map(str, results.classes[case.run]))
    sets = results.scored[case]
    count = 1 + max((int(s.predicted.max()) for s in sets.values() if len(s)), default=0)
    known = sets[case.known].label
    return [str(c) for c in range(max(count, 1 + int(known.max()) if len(known) else 1))]


def _run(results: Results, cases: Sequence[Case], run: Case, kept: float) -> dict[str, Any]:
    """The classes and the sets of a run, the known one first."""
    case = next(case for case in cases if case.run == run)
    sets = []
    for name in set_names(results, case):
        total = len(results.scored[case][name])
        chosen = sample(total, kept)
        sets.append(
            {"name": name, "total": total, "kept": total if chosen is None else len(chosen)}
        )
    return {"classes": class_names(results, case), "sets": sets}


def _case(results: Results, case: Case, kept: float, arrays: Arrays) -> dict[str, Any]:
    record, held_out = results.thresholds.get(case), results.held_out.get(case)
    known, auroc = results.scored[case][case.known], auroc_of(results, case)
    sets = []
    for name in set_names(results, case):
        scored = results.scored[case][name]
        chosen = sample(len(scored), kept)
        its = scored if chosen is None else scored[chosen]
        told: dict[str, Any] = {
            "score": arrays.scores(its.score),
            "predicted": arrays.classes(its.predicted),
        }
        if name == case.known:
            told["label"] = arrays.classes(its.label)
        else:
            told |= axis(known.score, scored.score, (record or {}).get("value"))
            told["auroc"] = auroc.get(name)
        sets.append(told)
    maps = {
        name: [maps_of(m, arrays) for m in its] for name, its in results.maps.get(case, {}).items()
    }
    found = {"sets": sets, "maps": maps, "tuned_on": case.tuned_on}
    return found | threshold_facts(known, record, held_out, arrays)


def threshold_facts(
    known: Scored, record: ThresholdRecord | None, held_out: HeldOut | None, arrays: Arrays
) -> dict[str, Any]:
    """The slider's positions, what is promised of them, and the table that gives p-values."""
    found = positions(known, record, held_out)
    values = torch.tensor([each.values for each in found], dtype=torch.float64)
    record = record or {}
    own, value = record.get("accept"), record.get("value")
    value = None if value is None else torch.as_tensor(value, dtype=torch.float64)
    shares = [each.accept for each in found]
    return {
        "accept": shares,
        "values": arrays.put(values.flatten()),
        "intervals": [each.interval for each in found],
        "strays": [each.strays for each in found],
        "own": None if own is None else shares.index(own),
        "given": None if own is not None or value is None else arrays.put(value.flatten()),
        "n": record.get("n"),
        "doubt": record.get("doubt"),
        "guarantee": record.get("guarantee"),
        "held": None if held_out is None else held_out_table(held_out, arrays),
    }


def held_out_table(held_out: HeldOut, arrays: Arrays) -> dict[str, Any] | None:
    """The table by which a score becomes a p-value."""
    if not held_out.fitted:
        return None
    return {
        "knots": arrays.put(held_out.knots),
        "atLeast": arrays.put(held_out.at_least, torch.int32),
        "above": arrays.put(held_out.above, torch.int32),
        "sizes": held_out.sizes.tolist(),
    }
