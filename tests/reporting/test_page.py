"""The file holds what the results hold, nothing from elsewhere, and no name becomes code."""

import base64
import json
import math
import os
import re
import warnings
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from reporting.example import EVIL, example, scored

from openset.evaluation.results import Results
from openset.evaluation.rows import Case, Row
from openset.evaluation.seen import Images
from openset.reporting import report
from openset.reporting.axes import axis
from openset.reporting.choice import first_shown
from openset.reporting.page import first_seeds
from openset.reporting.positions import MANY, positions
from openset.scoring.held_out import HeldOut
from openset.scoring.scored import Scored


class Page(HTMLParser):
    """A page's tags, text, scripts and styles."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.inside = [], "", {"script": [], "style": []}
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_data(self, data):
        if self.cdata_elem:
            self.inside[self.cdata_elem][-1] += data
        else:
            self.text += data

    @property
    def words(self):
        return " ".join(self.text.split())

    @property
    def data(self):
        return json.loads(self.inside["script"][0])

    def array(self, index):
        kind, text = self.data["arrays"][index]
        return np.frombuffer(base64.b64decode(text), kind)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return report(example(), tmp_path_factory.mktemp("page") / "report.html", title=EVIL)


@pytest.fixture
def page(path):
    return Page(path)


def test_the_page_holds_figures_facts_and_every_score(page):
    results = example()
    auroc = next(row.value for row in results.rows if row.metric == "auroc")
    assert f"{auroc:.3f}" in page.words
    assert "paper 0.77" in page.words
    assert "What was run" in page.words
    for case, told in zip(results.scored, page.data["cases"], strict=True):
        for its, kept in zip(results.scored[case].values(), told["sets"], strict=True):
            assert page.array(kept["score"]).tolist() == its.score.tolist()
            assert page.array(kept["predicted"]).tolist() == its.predicted.tolist()


def test_no_name_ends_a_script_or_begins_a_tag(page):
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script"] * 3
    assert EVIL in page.text
    assert page.data["runs"][0]["classes"][0] == EVIL
    assert "hacked" not in page.inside["script"][1] + page.inside["script"][2]


def test_the_policy_allows_the_pages_own_texts_alone(page):
    (policy,) = (a["content"] for _, a in page.tags if "Content-Security" in str(a))
    own = [*page.inside["script"][1:], *page.inside["style"]]
    digests = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in own]
    assert re.findall(r"sha256-([^']+)'", policy) == [digests[2], digests[0], digests[1]]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_nothing_comes_from_elsewhere(page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name) or "data:"
            assert value.startswith(("data:", "#")), (tag, value)
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"@import|url\(", page.inside["style"][0])


def test_the_same_results_give_the_same_page(page, tmp_path):
    again = report(example(), tmp_path / "again.html", title=EVIL)
    assert again.read_text(encoding="utf-8") == page.source


def test_of_several_seeds_the_details_are_the_first(tmp_path):
    results = example(seeds=3)
    assert [case.seed for case in first_seeds(results)] == [0, 0]
    page = Page(report(results, tmp_path / "report.html"))
    assert "over 3 seeds" in page.words
    assert "±" in page.words
    assert len(page.data["cases"]) == 2


def test_runs_that_differ_are_told_apart(tmp_path):
    results = Results()
    for network in ("cnn", "vgg"):
        case = Case(network=network, detector="energy", known="digits")
        results.add(case, scored(20, 0, 3), {"u": scored(20, 1, 3, unknown=True)})
    page = Page(report(results, tmp_path / "report.html"))
    assert [case["name"] for case in page.data["cases"]] == ["energy · cnn", "energy · vgg"]
    cells = [a for tag, a in page.tags if tag == "td" and a.get("data-metric") == "auroc"]
    assert [cell["data-case"] for cell in cells] == ["0", "1"]


def test_figures_alone_without_scores_make_a_page_without_script(tmp_path):
    rows = [Row(detector="csi", known="k", unknown="u", metric="auroc", paper=0.98)]
    page = Page(report(Results(rows), tmp_path / "report.html"))
    assert "– paper 0.98" in page.words
    assert not page.inside["script"]
    assert any("script-src 'none'" in a.get("content", "") for _, a in page.tags)
    assert "Nothing was measured" in Page(report(Results(), tmp_path / "empty.html")).words


def test_the_page_opens_with_the_best_detector_and_its_hardest_set():
    results = example()
    cases = list(results.scored)
    for row, value in zip(
        [row for row in results.rows if row.metric == "auroc"], [0.9, 0.8, 0.7, 0.99], strict=True
    ):
        results.rows[results.rows.index(row)] = replace(row, value=value)
    assert first_shown(results, cases) == {"case": 0, "set": 1}  # .85 against .845
    tuned = replace(cases[0], tuned_on="noise")
    for kept in (results.scored, results.thresholds):
        kept[tuned] = kept.pop(cases[0])
    results.rows = [
        replace(row, tuned_on="noise") if row.detector == "energy" else row for row in results.rows
    ]
    assert first_shown(results, [tuned, cases[1]])["case"] == 1


def test_extra_figures_are_shown(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "x.png")
    results = example()
    results.figures["t-SNE <of> the ensemble"] = (tmp_path / "x.png").read_bytes()
    page = Page(report(results, tmp_path / "report.html"))
    (image,) = (attributes for tag, attributes in page.tags if tag == "img")
    assert image["alt"] == "t-SNE <of> the ensemble"


def test_a_warning_of_the_run_stands_above_all(tmp_path):
    results = example()
    results.notes["Warning"] = "the outputs are <not> the classes"
    words = Page(report(results, tmp_path / "report.html")).words
    assert words.index("the outputs are <not> the classes") < words.index("What was run")


def test_large_images_stay_small_on_the_page(tmp_path):
    small, large = (report(example(size=s), tmp_path / f"{s}.html") for s in (8, 300))
    assert large.stat().st_size < small.stat().st_size + 3_000_000
    assert "data:image/webp" in large.read_text(encoding="utf-8")


def test_nothing_warns(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report(example(), tmp_path / "report.html")


def test_an_interrupted_report_leaves_the_older_one(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        report(example(), path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.html", "old")]


@pytest.mark.parametrize("value", [0.0, 1e30, -1e-30, math.inf])
def test_constant_scores_have_an_axis_and_a_page(tmp_path, value):
    results, case = Results(), Case(detector="energy", known="digits")
    label = torch.zeros(9).long()
    same = Scored(torch.full((9,), value), label, label)
    results.add(case, Images(same), {"u": Images(replace(same, label=label - 1))}, {"value": value})
    (told,) = Page(report(results, tmp_path / "report.html")).data["cases"]
    edges = np.array(told["sets"][1]["edges"])
    assert (np.diff(edges) > 0).all()


def test_an_axis_shows_the_bulk_of_the_known_beside_a_far_set():
    known = torch.randn(500, generator=torch.Generator().manual_seed(0))
    near, far = axis(known, known + 2, 1.5), axis(known, known + 5000, 1.5)
    for made in (near, far):
        edges = np.array(made["edges"])
        assert edges[0] < 1.5 < edges[-1]
        assert np.histogram(known, edges)[0].max() < 150  # Not all in one bar.
        assert len(made["ticks"]) == len(made["texts"]) >= 3
    assert np.allclose(np.diff(near["edges"]), near["edges"][1] - near["edges"][0])
    for place, text in zip(near["ticks"], near["texts"], strict=True):
        value = np.interp(place, np.arange(61), near["edges"])
        assert value == pytest.approx(float(text.replace("−", "-")), abs=1e-3)


def test_positions_are_thresholds_with_their_promises():
    torch.manual_seed(0)
    label = torch.zeros(1000).long()
    known = Scored(torch.randn(1000), label, label)
    held_out = HeldOut().fit([torch.randn(300)])
    own = held_out.threshold(0.975)
    found = {each.accept: each for each in positions(known, own.record(), held_out)}
    assert set(found) >= {0.01, 0.5, 0.95, 0.975, 0.99, 0.996}
    assert 0.999 not in found  # 300 held-out scores cannot promise it.
    for accept, each in found.items():
        threshold = held_out.threshold(accept)
        assert each.values == list(threshold.values)
        assert each.interval == threshold.coverage
    assert not found[0.95].strays
    shifted = replace(known, score=known.score + 3)
    assert all(p.strays for p in positions(shifted, None, held_out) if p.accept > 0.1)


def test_many_thresholds_of_many_classes_are_fewer_positions():
    groups = [torch.randn(300) for _ in range(MANY + 1)]
    held_out, label = HeldOut().fit(groups), torch.zeros(9).long()
    found = positions(Scored(torch.randn(9), label, label), None, held_out)
    assert len(found) < 15
    assert all(len(each.values) == MANY + 1 for each in found)
