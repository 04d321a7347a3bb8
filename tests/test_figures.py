"""Figures in the pages are those of docs/results."""

import csv
import importlib.util
from pathlib import Path
from statistics import fmean

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
assert spec is not None
assert spec.loader is not None
figures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(figures)

ROWS = [
    {"detector": "msp", "unknown": "far", "metric": "auroc", "network": "cnn", "value": "0.96"},
    {"detector": "msp", "unknown": "far", "metric": "auroc", "network": "vgg", "value": "0.5"},
    {"detector": "odin", "unknown": "far", "metric": "auroc", "network": "cnn", "value": "1"},
]


@pytest.fixture
def docs(tmp_path, monkeypatch):
    """Pages with a table of two seeds."""
    (tmp_path / "results" / "t").mkdir(parents=True)
    rows = [{**row, "seed": "0"} for row in ROWS]
    rows.append({**rows[0], "seed": "1", "value": "0.9432"})
    with (tmp_path / "results" / "t" / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    monkeypatch.setattr(figures, "DOCS", tmp_path)
    figures.table.cache_clear()
    yield tmp_path
    figures.table.cache_clear()


def test_the_pages_name_figures_that_are_there():
    assert figures.problems() == []


def test_a_mark_becomes_the_mean_over_the_seeds(docs):
    page = "It has {{ t msp far auroc network=cnn }}, ODIN {{ t odin far auroc }}."
    assert figures.on_page_markdown(page) == "It has .952, ODIN 1.000."
    assert figures.figure("t msp far auroc network=cnn seed=1") == ".943"


def test_the_mean_is_over_all_sets_and_over_no_mean_of_them(docs):
    table = docs / "results" / "t" / "results.csv"
    with table.open("a") as file:
        file.write("odin,near,auroc,cnn,0.5,0\nodin,mean of both,auroc,cnn,0.75,0\n")
        file.write("odin,,auroc,cnn,0.1,0\n")
    assert figures.figure("t odin mean auroc") == ".750"
    assert figures.figure('t odin "mean of both" auroc') == ".750"


def test_a_figure_with_its_mark_behind_it_is_compared(docs):
    page = docs / "page.md"
    page.write_text("**1.000**<!-- t odin far auroc --> .500<!-- t msp far auroc network=vgg -->")
    assert figures.problems() == []
    page.write_text("**.999**<!-- t odin far auroc -->")
    (problem,) = figures.problems()
    assert problem == "page.md: t odin far auroc: the page has .999, the table 1.000"


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("t msp far auroc", "several rows have that name; add network=cnn or network=vgg"),
        ("t msp near auroc", "has no such figure"),
        ("u msp far auroc", "no such folder"),
        ("t msp", "a mark is a folder, a detector"),
    ],
)
def test_what_is_not_one_figure_is_named_with_its_page(docs, named, says):
    (docs / "page.md").write_text(f"It has {{{{ {named} }}}}.")
    (problem,) = figures.problems()
    assert problem.startswith(f"page.md: {named.partition(' ')[0]}")
    assert says in problem


def test_a_figure_agrees_with_its_table():
    """One that is read here by other code."""
    path = ROOT / "docs" / "results" / "near-far-cifar10" / "results.csv"
    with path.open(newline="") as file:
        values = [
            float(row["value"])
            for row in csv.DictReader(file)
            if (row["detector"], row["unknown"], row["metric"]) == ("energy", "isun", "auroc")
        ]
    shown = figures.figure("near-far-cifar10 energy isun auroc")
    assert float(shown) == pytest.approx(fmean(values), abs=5e-4)
