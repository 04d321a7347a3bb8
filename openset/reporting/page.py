"""The report as one HTML page, put together from results."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from openset.activations import UNKNOWN
from openset.evaluation.metrics import METRICS
from openset.evaluation.results import Results
from openset.evaluation.rows import Case, Row
from openset.files import complete_file
from openset.reporting import charts as figures
from openset.scoring.scored import Scored, Thresholds
from openset.scoring.threshold import strays

WARNING = "Warning"
"""Heads the facts that the page shows in a warning's colours."""

STRAYED = (
    "The test images are accepted more or less often than the held-out images promise, and chance "
    "alone does not explain it: the two are not drawn alike, or the network was trained on some."
)

SMALL = 48
"""Images up to this side are kept lossless; they are enlarged without smoothing."""


@dataclass
class Picture:
    """A picture inside the page: its data URI, a title, and a sentence for who cannot see it."""

    source: str
    title: str
    alt: str


@dataclass
class Thumbnail:
    """One image that a detector got wrong, or nearly."""

    source: str
    alt: str
    wrong: bool
    truth: str
    answer: str
    score: str


@dataclass
class Section:
    """One detector's part of the page."""

    anchor: str
    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    figures: dict[str, dict[str, Row]] = field(default_factory=dict)
    histograms: list[Picture] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    strips: dict[str, list[Thumbnail]] = field(default_factory=dict)


def report(
    results: Results,
    path: str | Path,
    title: str = "Known or unknown",
    metrics: Sequence[str] | None = None,
) -> Path:
    """Writes results as one HTML page that needs no other file and no network.

    Of several seeds the tables show mean and deviation, the details the first seed.

    Args:
        results: From `evaluate` or `Results.load`.
        path: The file to write; it is replaced at once, and only when the page is complete.
        title: The page's heading.
        metrics: The summary's metrics; None for those that the results name (`Results.shown`), or
            else accuracy, AUROC, FPR95 (known positive) and macro-F1. Each detector's own table
            has all.

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
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    cases = list(first_seeds(results))
    summary = results.summary(metrics)
    html = environment.get_template("report.html").render(
        title=title,
        style=(folder / "report.css").read_text(encoding="utf-8"),
        facts=_what_ran(results),
        summary=summary,
        groups={
            title: [column for column in summary.columns if summary.group(column) == title]
            for title in dict.fromkeys(map(summary.group, summary.columns))
        },
        METRICS=METRICS,
        WARNING=WARNING,
        sections=[_section(results, case, i, cases) for i, case in enumerate(cases, start=1)],
        pictures=[
            Picture(_uri(png, "image/png"), name, name) for name, png in results.figures.items()
        ],
        definitions=_definitions(results),
        colours={"known": figures.KNOWN, "unknown": figures.SERIES[0]},
        seeds=len({case.seed for case in results.scored}),
    )
    with complete_file(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return Path(path)


def first_seeds(results: Results) -> Iterator[Case]:
    """The cases to show in detail: of those that differ in nothing but the seed, the first."""
    seen: set[Case] = set()
    for case in sorted(results.scored, key=lambda case: case.seed):
        if replace(case, seed=0) not in seen:
            seen.add(replace(case, seed=0))
            yield case


def _what_ran(results: Results) -> list[tuple[str, str]]:
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


def _definitions(results: Results) -> list[tuple[str, str]]:
    """Title and first sentence of every metric that was measured."""
    used = {row.metric for row in results.rows}
    return [
        (metric.title, (metric.function.__doc__ or "").partition("\n")[0])
        for name, metric in METRICS.items()
        if name in used
    ]


def _section(results: Results, case: Case, number: int, cases: list[Case]) -> Section:
    sets = dict(results.scored[case])
    known = sets.pop(case.known)
    threshold = results.thresholds.get(case, {}).get("value")
    section = Section(f"detector-{number}", _title(case, cases))
    section.facts = _threshold_facts(results, case, known)
    for row in results.rows:
        if row.unknown in sets and _case(row) == case:
            section.figures.setdefault(row.unknown, {})[row.metric] = row
    used = {metric for figures in section.figures.values() for metric in figures}
    section.metrics = [name for name in METRICS if name in used]
    section.histograms = [
        _svg_picture(
            figures.histogram(known, scored, threshold),
            name,
            f"Histogram of the scores of {case.known} (known) and {name} (unknown)",
        )
        for name, scored in sets.items()
    ]
    if sets:
        section.pictures = list(_pictures(results, case, known, sets, threshold))
    section.pictures += [
        Picture(_uri(png, "image/png"), f"{name}: image, answer, score, truth", f"Images of {name}")
        for name, png in results.pictures.get(case, {}).items()
    ]
    for data in (*sets, case.known):
        if strip := list(_strip(results, case, data, threshold)):
            section.strips[data] = strip
    return section


def _case(row: Row) -> Case:
    return Case(**{field.name: getattr(row, field.name) for field in fields(Case)})


def _title(case: Case, cases: list[Case]) -> str:
    """The detector, with whatever else tells it from the other sections."""
    parts = ("objective", "network", "known", "protocol")
    differing = [p for p in parts if len({getattr(other, p) for other in cases}) > 1]
    tuned = f"tuned on {case.tuned_on}" if case.tuned_on else ""
    return " · ".join(filter(None, [case.detector, tuned, *(getattr(case, p) for p in differing)]))


def _threshold_facts(results: Results, case: Case, known: Scored) -> list[tuple[str, str]]:
    """Tells where the threshold comes from, its promise, and its effect on the test data."""
    threshold = results.thresholds.get(case)
    if not threshold or "value" not in threshold:
        return []
    value = threshold["value"]
    if isinstance(value, (int, float)):
        facts = [("Threshold", f"{value:.5g}; a higher score is answered “unknown”")]
    else:
        shown = f"{min(value):.5g} … {max(value):.5g}"
        facts = [("Threshold", f"one for each of {len(value)} classes, {shown}")]
    if "accept" in threshold:
        facts.append(
            ("Accept", f"{_percent(threshold['accept'])} of known images are to be accepted")
        )
    if "n" in threshold:
        facts.append(("Set from", f"{threshold['n']:,} held-out known images, no unknown ones"))
    doubted = "doubt" in threshold
    if "guarantee" in threshold:
        facts.append((WARNING if doubted else "Guarantee", threshold["guarantee"]))
    accepted = 1 - float(known.rejected(value).double().mean())
    measured = f"{_percent(accepted)} of {len(known):,} known test images accepted"
    if "interval" in threshold:
        low, high = threshold["interval"]
        inside = low <= accepted <= high
        measured += ", inside the interval" if inside else ", outside the interval"
        if doubted:
            return [*facts, ("Measured", measured)]
        interval = f"{_percent(low)} to {_percent(high)} of future known images"
        facts.append(("95 % interval", interval))
        if strays(round(accepted * len(known)), len(known), (low, high)):
            return [*facts, ("Measured", measured), (WARNING, STRAYED)]
        measured += ", by no more than chance" * (not inside)
    return [*facts, ("Measured", measured)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _pictures(
    results: Results,
    case: Case,
    known: Scored,
    sets: dict[str, Scored],
    threshold: Thresholds | None,
) -> Iterator[Picture]:
    svg = figures.curves(known, sets, threshold)
    alt = f"Share of known accepted against share of unknown accepted, for {', '.join(sets)}"
    yield _svg_picture(svg, "ROC", alt)
    if threshold is not None:
        classes = _classes(results, case)
        counts = figures.confusion_counts(known, sets, len(classes), threshold)
        svg = figures.confusion(counts, classes, list(sets))
        alt = "Confusion matrix: true class or unknown set by answer, at the threshold"
        yield _svg_picture(svg, "Truth (down) and answer (across)", alt)


def _classes(results: Results, case: Case) -> list[str]:
    """The names of the known classes, or their numbers if nobody named them."""
    if case.run in results.classes:
        return results.classes[case.run]
    sets = results.scored[case]
    count = 1 + max(int(scored.predicted.max()) for scored in sets.values())
    return [str(c) for c in range(max(count, 1 + int(sets[case.known].label.max())))]


def _strip(
    results: Results, case: Case, data: str, threshold: Thresholds | None
) -> Iterator[Thumbnail]:
    """The images of one data set that the detector gets most wrong, worst first."""
    scored, is_known = results.scored[case][data], data == case.known
    classes = _classes(results, case)
    images = results.images.get(case.run, {}).get(data, {})
    rejected = None if threshold is None else scored.rejected(threshold)
    for i in results.examples(case, data):
        if i not in images:
            continue
        label, predicted = int(scored.label[i]), int(scored.predicted[i])
        truth = classes[label] if label != UNKNOWN else "unknown"
        wrong = rejected is not None and bool(rejected[i]) == is_known
        answer = "unknown" if rejected is not None and rejected[i] else classes[predicted]
        yield Thumbnail(
            source=_uri(*_encoded(images[i])),
            alt=f"Image {i} of {data}: {truth}, answered {answer}",
            wrong=wrong,
            truth=truth if is_known else "",
            answer=answer,
            score=f"{float(scored.score[i]):.4g}",
        )


def _encoded(image: Tensor) -> tuple[bytes, str]:
    """A thumbnail `[C, H, W]` in uint8 as bytes with their type."""
    array = np.moveaxis(image.numpy(), 0, -1)
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array[..., :3])
    kind = "png" if max(picture.size) <= SMALL else "webp"
    file = io.BytesIO()
    picture.save(file, kind, quality=80) if kind == "webp" else picture.save(file, kind)
    return file.getvalue(), f"image/{kind}"


def _svg_picture(svg: str, title: str, alt: str) -> Picture:
    return Picture(_uri(svg.encode(), "image/svg+xml"), title, alt)


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
