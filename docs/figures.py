"""Puts figures of docs/results into the pages, by name, so that no sentence drifts from its table.

A mark is `{{ FOLDER DETECTOR UNKNOWN METRIC }}`, with `network=…`, `objective=…`, `known=…` or
`seed=…` where that leaves several rows; the mean over the seeds takes its place. Names with spaces
are quoted: `{{ near-far-cifar10 fusion "mean of near" auroc }}`; `mean` is over all unknown sets.
The README is read as it stands, so there the figure has its mark behind it, in a comment:
`.952<!-- near-far-cifar10 fusion mean auroc -->`. Run, this file checks all pages.
"""

import csv
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from statistics import fmean

DOCS = Path(__file__).parent
MARK = re.compile(r"\{\{ (.+?) \}\}")
BEHIND = re.compile(r"([\d.]+)\**<!-- (.+?) -->")
NAMES = ("detector", "unknown", "metric")
OTHERS = ("network", "objective", "known", "tuned_on")
"""Columns that must be the same in all rows of a figure."""


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fills in a page's marks; MkDocs calls it for each page."""
    return MARK.sub(lambda mark: figure(mark[1]), markdown)


def figure(named: str) -> str:
    """The figure that a mark names, to three decimals and without the zero before the point.

    Raises:
        ValueError: If no row of the table, or more than one method, has that name.
    """
    folder, *words = shlex.split(named)
    if len(words) < len(NAMES):
        raise ValueError(f"{named}: a mark is a folder, a detector, an unknown set and a metric")
    wanted = dict(zip(NAMES, words, strict=False))
    wanted |= dict(word.split("=", 1) for word in words[len(NAMES) :])
    every = wanted["unknown"] == "mean" and wanted.pop("unknown")
    rows = [row for row in table(folder) if wanted.items() <= row.items()]
    if every:
        rows = [row for row in rows if row["unknown"] and not row["unknown"].startswith("mean of ")]
    if not rows:
        raise ValueError(f"{named}: docs/results/{folder}/results.csv has no such figure")
    for column in OTHERS:
        if len(found := {row.get(column, "") for row in rows}) > 1:
            choice = " or ".join(sorted(f"{column}={value}" for value in found))
            raise ValueError(f"{named}: several rows have that name; add {choice}")
    return f"{fmean(float(row['value']) for row in rows):.3f}".removeprefix("0")


@cache
def table(folder: str) -> list[dict[str, str]]:
    """The measured rows of a folder of results."""
    path = DOCS / "results" / folder / "results.csv"
    if not path.is_file():
        raise ValueError(f"{folder}: docs/results has no such folder")
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["value"] not in ("", "nan")]


def problems() -> list[str]:
    """What is wrong with the marks of all pages and the README, each with its page."""
    found = []
    for page in (*DOCS.glob("../README.md"), *sorted(DOCS.rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for shown, named in [*(("", mark) for mark in MARK.findall(text)), *BEHIND.findall(text)]:
            try:
                true = figure(named)
                if shown not in ("", true):
                    raise ValueError(f"{named}: the page has {shown}, the table {true}")
            except ValueError as error:
                found.append(f"{page.relative_to(DOCS)}: {error}")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(problems()) or 0)
