"""Pages of unusual results in a browser: doubt, samples, many classes, several runs."""

from dataclasses import replace

import pytest
import torch
from reporting.example import example

from openset.evaluation.metrics import measure
from openset.evaluation.results import Results
from openset.evaluation.rows import Case
from openset.evaluation.seen import Images
from openset.reporting import report
from openset.scoring.scored import Scored


def test_without_held_out_scores_the_shares_are_those_of_the_test_data(opened, tmp_path):
    results = example()
    results.held_out.clear()
    case = next(iter(results.scored))
    path = report(results, tmp_path / "report.html")
    with opened(path) as page:
        page.select_option("#detector", label=case.detector)
        page.slide("#accept", 49)
        score = results.scored[case]["digits"].score.double().sort().values
        assert page.threshold == float(score[45 - 1])
        assert "nothing is promised" in page.inner_text("#promise")
        assert page.locator("[data-axis=p]").is_disabled()
        assert page.said == []


@pytest.mark.parametrize(
    ("changes", "said", "kind"),
    [
        ({}, "The promise held", "held"),
        ({"interval": (0.99, 1.0), "value": -1.0}, "The promise did not hold", "warning"),
        ({"interval": (0.96, 1.0)}, "by no more than chance", "held"),
        (
            {"doubt": "all was seen"},
            "No guarantee holds. All was seen. The threshold accepts 95",
            "warning",
        ),
    ],
)
def test_the_page_says_whether_the_promise_held(opened, tmp_path, changes, said, kind):
    results = example(detectors=["energy"], images=False)
    (record,) = results.thresholds.values()
    record |= changes
    with opened(report(results, tmp_path / "report.html")) as page:
        assert said in page.inner_text("#promise")
        assert page.get_attribute("#promise", "class") == f"promise {kind}"


def test_a_threshold_without_a_share_is_where_the_page_opens(opened, tmp_path):
    results = example(detectors=["energy"])
    (case,) = results.scored
    results.thresholds[case] = {"value": 0.125}
    with opened(report(results, tmp_path / "report.html")) as page:
        assert page.threshold == 0.125
        assert page.locator("#reset").is_disabled()
        assert "by hand" in page.inner_text("#promise")


def test_a_large_page_is_a_sample_and_says_so(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("openset.reporting.payload.SCORES", 270)
    results = example(detectors=["energy"], count=300)
    with opened(report(results, tmp_path / "report.html")) as page:
        assert "90 of 300 of digits" in page.inner_text("#rule")
        assert torch.tensor(page.counts).sum() == 270
        assert page.said == []


def test_infinite_constant_and_hundreds_of_classes_are_drawn(opened, tmp_path):
    results = example(classes=100, count=300)
    for case in results.scored:
        results.scored[case]["letters"].score[:5] = torch.inf
        results.scored[case]["digits"].score[:2] = -torch.inf
    for run, names in results.classes.items():
        results.classes[run] = ["漢字", "$x_1$", *names[2:]]
    case = Case(detector="constant", known="k")
    results.add(
        case, *(e(torch.full((9,), 1e30)) for e in (_known, lambda s: {"u": _unknown(s)})),
        {"value": 1e30},
    )  # fmt: skip
    with opened(report(results, tmp_path / "report.html")) as page:
        assert len(page.counts) == 14 + 1 + 2
        for name in page.locator("#detector option").all_inner_texts():
            page.select_option("#detector", label=name)
            page.slide("#accept", 9)
        assert page.said == []


def _known(score):
    label = torch.zeros(len(score)).long()
    return Images(Scored(score, label, label))


def _unknown(score):
    seen = _known(score)
    seen.parts[0].label -= 1
    return seen


def test_runs_of_other_classes_are_switched_too(opened, tmp_path):
    """As a benchmark has them: other known data, other classes, other unknown sets."""
    first, second = example(detectors=["energy"]), example(classes=5, detectors=["msp", "knn"])
    for name in ("scored", "thresholds", "held_out", "classes", "images", "details"):
        found = getattr(second, name)
        setattr(second, name, {replace(case, network="vgg"): x for case, x in found.items()})
    second.rows = [replace(row, network="vgg") for row in second.rows]
    merged = Results.merge([first, second])
    with opened(report(merged, tmp_path / "report.html")) as page:
        names = page.locator("#detector option").all_inner_texts()
        assert names == ["energy · cnn", "msp · vgg", "knn · vgg"]
        for name in (*names, *reversed(names)):
            page.select_option("#detector", label=name)
            case = next(c for c in merged.scored if name == f"{c.detector} · {c.network}")
            data = page.locator("#set").evaluate("set => set.selectedOptions[0].textContent")
            known, unknown = merged.scored[case]["digits"], merged.scored[case][data]
            f1 = measure(known, unknown, page.threshold, ["macro_f1"])["macro_f1"]
            assert page.numbers("#figures")[3] == pytest.approx(f1, abs=1e-12)
            classes = len(merged.classes[case.run])
            assert page.locator("#each tbody tr").count() == classes
            assert page.locator("#filters select[name=class] option").count() == 1 + classes
            page.select_option("#filters select[name=class]", index=classes)
            assert page.locator("#legend button").count() == (1 if "cnn" in name else 2)
        page.click('#table td[data-case="0"][data-set="1"]:visible button')
        assert page.inner_text("#sentence").startswith("energy · cnn")
        assert page.said == []
