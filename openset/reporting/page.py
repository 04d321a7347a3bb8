"""The report as one HTML page, put together from results."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from openset.evaluation.metrics import METRICS
from openset.evaluation.results import Results
from openset.evaluation.rows import Case
from openset.evaluation.summary import Column, Summary
from openset.files import complete_file
from openset.reporting import charts
from openset.reporting.axes import BARS
from openset.reporting.images import uri
from openset.reporting.payload import payload

BROWSER = Path(__file__).parent / "browser"
"""The page's template, style sheet and scripts."""


SCRIPTS = ("numbers", "state", "charts", "tables", "gallery", "pixels", "page")
"""The parts of the page's script, in their order."""


def report(
    results: Results,
    path: str | Path,
    title: str = "Known or unknown",
    metrics: Sequence[str] | None = None,
    *,
    truth: bool = True,
) -> Path:
    """Writes results as one HTML page that needs no other file and no network.

    The page opens with what the best detector does at its threshold, and a slider moves that
    threshold through all of its pictures and figures. Of several seeds the table shows mean and
    deviation, all else the first seed.

    Args:
        results: From `evaluate` or `Results.load`.
        path: The file to write; it is replaced at once, and only when the page is complete.
        title: The page's heading.
        metrics: The metrics that the table offers first; None for those that the results name
            (`Results.shown`), or else accuracy, AUROC, FPR95 (known positive) and macro-F1.
        truth: Whether it is known which images are unknown; without, the page shows the answers.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> from openset.evaluation.results import Results
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = report(Results(), Path(folder, "report.html"))
        ...     page.read_text().startswith("<!doctype html>")
        True
    """
    cases = list(first_seeds(results))
    names = [title_of(case, cases) for case in cases]
    table = Table(results, cases, metrics)
    html = page(
        title,
        payload(results, cases, names, truth=truth) if cases else None,
        facts=what_ran(results),
        table=table,
        pictures={name: uri(png, "image/png") for name, png in results.figures.items()},
        definitions=definitions(results),
        seeds=len({case.seed for case in results.scored}),
    )
    with complete_file(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return Path(path)


def page(title: str, data: dict[str, Any] | None, **parts: Any) -> str:
    """Fills the template; a security policy allows what stands in the page, and nothing else.

    Args:
        title: The heading.
        data: What the script reads; without it the page runs no script.
        parts: What the template shows beside.
    """
    environment = Environment(
        loader=FileSystemLoader(BROWSER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    style = (BROWSER / "page.css").read_text(encoding="utf-8")
    scripts = [] if data is None else [charts.library(), own_script()]
    told = None if data is None else data | {"charts": charts.declarations()}
    return environment.get_template("page.html").render(
        title=title,
        style=style,
        scripts=scripts,
        data=None if told is None else as_json(told),
        policy=policy([style], scripts),
        METRICS=METRICS,
        BARS=BARS,
        **parts,
    )


def own_script() -> str:
    """The page's own script, of all its parts."""
    parts = [(BROWSER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return "\n".join(['(() => {\n"use strict";', *parts, "})();"])


def as_json(data: Any) -> str:
    """Data as JSON that no text in it can end, whatever a class or a file is called."""
    text = json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(data: Any) -> Any:
    """JSON knows no NaN and no infinity; they become null."""
    if isinstance(data, float):
        return data if abs(data) < float("inf") else None
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data


def policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """A content security policy that allows these texts and pictures inside the page."""
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src {' '.join(map(_hash, styles))}",
            f"script-src {' '.join(map(_hash, scripts)) or _NONE}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


_NONE = "'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


def first_seeds(results: Results) -> Iterator[Case]:
    """The cases to show in detail: of those that differ in nothing but the seed, the first."""
    seen: set[Case] = set()
    for case in sorted(results.scored, key=lambda case: case.seed):
        if replace(case, seed=0) not in seen:
            seen.add(replace(case, seed=0))
            yield case


def title_of(case: Case, cases: Sequence[Case]) -> str:
    """The detector, with whatever else tells it from the other cases."""
    parts = ("objective", "network", "known", "protocol")
    differing = [p for p in parts if len({getattr(other, p) for other in cases}) > 1]
    tuned = f"tuned on {case.tuned_on}" if case.tuned_on else ""
    return " · ".join(filter(None, [case.detector, tuned, *(getattr(case, p) for p in differing)]))


class Table:
    """Detectors down, unknown sets across, one metric at a time."""

    def __init__(self, results: Results, cases: Sequence[Case], metrics: Sequence[str] | None):
        self.cases, self.results = cases, results
        first = results.summary(metrics)
        measured = dict.fromkeys(row.metric for row in results.rows)
        self.shown = first.metrics
        more = [name for name in METRICS if name in measured and name not in self.shown]
        self.summary: Summary = results.summary([*self.shown, *more])
        self.columns = sorted(self.summary.columns, key=lambda c: not self.needs_unknown(c))
        self.metrics = [m for m in self.summary.metrics if METRICS[m].needs_unknown]
        self.first = "auroc" if "auroc" in self.metrics else next(iter(self.metrics), "")

    def place(self, line: Case, column: Column) -> dict[str, int]:
        """The case and the set of a figure, by their places in the page's data."""
        for i, case in enumerate(self.cases):
            its = Case("", 0, case.network, case.objective, case.detector, tuned_on=case.tuned_on)
            if its == line and (case.protocol, case.known) == (column.protocol, column.known):
                sets = [name for name in self.results.scored[case] if name != case.known]
                which = sets.index(column.unknown) + 1 if column.unknown in sets else 0
                return {"case": i, "set": which}
        return {}

    def needs_unknown(self, column: Column) -> bool:
        """Whether the figure depends on an unknown set."""
        return METRICS[column.metric].needs_unknown


def what_ran(results: Results) -> list[tuple[str, str]]:
    """Facts about what was run."""
    names = {
        "Protocol": [row.protocol for row in results.rows],
        "Known": [row.known for row in results.rows],
        "Unknown": [row.unknown for row in results.rows],
        "Network": [row.network for row in results.rows],
        "Training": [row.objective for row in results.rows],
        "Seeds": [str(row.seed) for row in results.rows],
    }
    facts = {name: ", ".join(filter(None, dict.fromkeys(all_))) for name, all_ in names.items()}
    classes = {", ".join(names) for names in results.classes.values()}
    if len(classes) == 1:
        facts["Known classes"] = classes.pop()
    facts |= {name[:1].upper() + name[1:]: text for name, text in results.notes.items()}
    return [(name, text) for name, text in facts.items() if text]


def definitions(results: Results) -> list[tuple[str, str]]:
    """Title and first sentence of every metric that was measured."""
    used = {row.metric for row in results.rows}
    return [
        (metric.title, (metric.function.__doc__ or "").partition("\n")[0])
        for name, metric in METRICS.items()
        if name in used
    ]
