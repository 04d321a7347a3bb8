"""What the page opens with: the detector and the unknown set that are shown first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from openset.evaluation.results import Results
from openset.evaluation.rows import Case, Row


def first_shown(results: Results, cases: Sequence[Case]) -> dict[str, Any]:
    """The case that the page opens with, and its unknown set.

    The highest AUROC, averaged over the unknown sets, among the detectors that were tuned on no
    unknown data if there are any; and the set of which it rejects the least.
    """
    ranked = {case: (not case.tuned_on, mean_auroc(results, case)) for case in cases}
    if not ranked:
        return {"case": 0, "set": 1}
    case = max(ranked, key=lambda each: ranked[each])
    sets = [name for name in results.scored[case] if name != case.known]
    value = results.thresholds.get(case, {}).get("value")

    def rejected(name: str) -> float:
        scored = results.scored[case][name]
        if value is None:
            return auroc_of(results, case).get(name, 0.0)
        return float(scored.rejected(value).double().mean())

    hardest = min(sets, key=rejected) if sets else ""
    return {"case": cases.index(case), "set": 1 + sets.index(hardest) if sets else 0}


def auroc_of(results: Results, case: Case) -> dict[str, float]:
    """The AUROC on each unknown set, as the table has it."""
    rows = (row for row in results.rows if row.metric == "auroc")
    return {row.unknown: row.value for row in rows if case_of(row) == case}


def case_of(row: Row) -> Case:
    """The case that a figure is about."""
    return Case(**{field.name: getattr(row, field.name) for field in fields(Case)})


def mean_auroc(results: Results, case: Case) -> float:
    """The AUROC averaged over the unknown sets; 0 where none was measured."""
    found = [value for value in auroc_of(results, case).values() if value == value]
    return sum(found) / len(found) if found else 0.0


def set_names(results: Results, case: Case) -> list[str]:
    """The names of a case's sets, the known one first."""
    return [case.known, *(name for name in results.scored[case] if name != case.known)]
