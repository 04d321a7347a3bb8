"""In a browser: the figures are those of `openset.evaluation`, whatever is moved or chosen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reporting.example import EVIL, example

from openset.activations import UNKNOWN
from openset.evaluation.metrics import measure
from openset.evaluation.results import Results
from openset.evaluation.rows import Case
from openset.reporting import report
from openset.reporting.page import first_seeds
from openset.reporting.positions import positions


@pytest.fixture(scope="module")
def results():
    return example()


@pytest.fixture(scope="module")
def path(results, tmp_path_factory):
    return report(results, tmp_path_factory.mktemp("page") / "report.html", title=EVIL)


@pytest.fixture
def page(opened, path):
    with opened(path) as page:
        yield page
        assert page.said == []
        assert [url for url in page.asked if not url.startswith("data:")] == [path.as_uri()]


def reference(results, detector, data, threshold):
    """What the page must show, by openset's own evaluation."""
    case = next(case for case in first_seeds(results) if case.detector == detector)
    known, unknown = results.scored[case]["digits"], results.scored[case][data]
    accepted = ~known.rejected(threshold)
    right = int((known.answers(threshold) == known.label).sum())
    answered = int(accepted.sum()) + int((~unknown.rejected(threshold)).sum())
    return [
        float(accepted.double().mean()),
        float(unknown.rejected(threshold).double().mean()),
        right / answered,
        measure(known, unknown, threshold, ["macro_f1"])["macro_f1"],
    ]


def counted(results, detector, threshold):
    """Truth by answer, counted one by one."""
    case = next(case for case in first_seeds(results) if case.detector == detector)
    counts = np.zeros((5, 4), dtype=int)
    for row, data in enumerate(["letters", EVIL], start=3):
        for answer in results.scored[case][data].answers(threshold).tolist():
            counts[row, 3 if answer == UNKNOWN else answer] += 1
    known = results.scored[case]["digits"]
    for label, answer in zip(known.label.tolist(), known.answers(threshold).tolist(), strict=True):
        counts[label, 3 if answer == UNKNOWN else answer] += 1
    return counts


def shown_counts(page):
    rows = page.locator("#confusion tbody tr").all()
    return [[int(t or 0) for t in row.locator("td").all_inner_texts()] for row in rows]


def check(page, results, detector, data):
    assert page.numbers("#figures") == pytest.approx(
        reference(results, detector, data, page.threshold), abs=1e-12
    )
    counts = counted(results, detector, page.threshold)
    assert shown_counts(page) == counts.tolist()
    each = np.array(page.numbers("#each tbody")).reshape(3, 4)
    total = counts[:3].sum(1)
    unknown = counts[3 if data == "letters" else 4]
    expected = [1 - counts[:3, 3] / total, counts[:3, 3] / total, np.diag(counts)[:3] / total]
    assert each == pytest.approx(np.stack([*expected, unknown[:3] / unknown.sum()], 1))


@pytest.mark.parametrize("detector", ["energy", "gemos:components=4"])
def test_at_every_share_the_figures_are_those_of_the_evaluation(page, results, detector):
    page.select_option("#detector", label=detector)
    page.select_option("#set", label="letters")
    case = next(case for case in results.scored if case.detector == detector)
    known = results.scored[case]["digits"]
    expected = positions(known, results.thresholds[case], results.held_out[case])
    assert int(page.get_attribute("#accept", "max")) == len(expected) - 1
    for place in (8, 20, 60, 94, len(expected) - 1):
        page.slide("#accept", place)
        values = page.threshold if isinstance(page.threshold, list) else [page.threshold]
        assert values == expected[place].values
        assert page.inner_text("#share") == f"{100 * expected[place].accept:g} %"
        check(page, results, detector, "letters")


def test_a_tie_with_the_threshold_falls_as_torch_has_it(page, results):
    page.select_option("#detector", label="energy")
    page.select_option("#set", label="letters")
    case = next(case for case in results.scored if case.detector == "energy")
    tied = results.scored[case]["digits"].score[:5].tolist()
    for value in (*tied, *(round(x, 2) for x in tied)):
        page.fill("#value", repr(value))
        assert page.threshold == value
        check(page, results, "energy", "letters")


def test_the_thumb_is_dragged_and_all_follows(page, results):
    page.select_option("#detector", label="energy")
    before = page.get_attribute("#histogram", "aria-label")
    thumb = page.locator("#accept")
    box = thumb.bounding_box()
    start = box["width"] * float(thumb.input_value()) / float(thumb.get_attribute("max"))
    page.mouse.move(box["x"] + start, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    assert page.locator("#reset").is_enabled()
    data = page.locator("#set").evaluate("set => set.selectedOptions[0].textContent")
    check(page, results, "energy", data)
    assert page.get_attribute("#histogram", "aria-label") != before
    page.click("#reset")
    (own,) = {r["value"] for c, r in results.thresholds.items() if c.detector == "energy"}
    assert page.threshold == own


def test_the_threshold_is_dragged_on_the_picture(page, results):
    page.select_option("#detector", label="energy")
    page.select_option("#set", label="letters")
    box = page.locator("#histogram").bounding_box()
    found = []
    for share in (0.4, 0.7):
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * share, box["y"] + 100)
        page.mouse.up()
        check(page, results, "energy", "letters")
        found.append(page.threshold)
    assert found[0] < found[1]
    assert "by hand" in page.inner_text("#promise")


def test_keys_move_the_slider(page, results):
    page.select_option("#detector", label="energy")
    page.focus("#accept")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#share") == "94 %"
    assert page.get_attribute("#accept", "aria-valuetext") == "94 %"
    check(page, results, "energy", page.inner_text("#unknown-name"))


def test_detector_and_set_are_switched(page, results):
    for detector in ("gemos:components=4", "energy"):
        for data in (EVIL, "letters"):
            page.select_option("#detector", label=detector)
            page.select_option("#set", label=data)
            check(page, results, detector, data)
            assert page.inner_text("#sentence").startswith(f"{detector} at accept 95 % takes ")
            assert page.inner_text("#unknown-name") == data
    page.click("#legend button:has-text('gemos')")
    check(page, results, "gemos:components=4", "letters")
    page.click('#table td[data-metric="auroc"] button >> nth=0')
    assert page.locator("#table td.chosen:visible").count() == 1


def test_the_table_is_sorted_by_any_metric(page, results):
    for metric in ("auroc", "fpr_at_95_tpr", "oscr"):
        page.select_option("#metric", metric)
        head = page.locator(f'#table th[data-metric="{metric}"]:visible').first
        cells = page.locator(f'#table tbody tr td[data-metric="{metric}"]:visible')
        columns = cells.count() // 2
        for _ in range(2):
            head.locator("button").click()
            values = [float(c.get_attribute("data-value")) for c in cells.all()][::columns]
            order = head.get_attribute("aria-sort")
            assert values == sorted(values, reverse=order == "descending")
    visible = page.locator("#table th[data-metric]:visible").all()
    assert {head.get_attribute("data-metric") for head in visible} == {"oscr"}


def test_the_table_follows_the_slider_where_it_is_asked_to(page, results):
    page.select_option("#detector", label="energy")
    page.slide("#accept", 79)
    for name, place in (("rejected", 1), ("f1", 3)):
        page.select_option("#metric", name)
        for row in page.locator("#table tbody tr").all():
            detector = row.locator("th").inner_text()
            cells = row.locator(f'td[data-metric="{name}"][data-case]:visible').all()
            found = [float(cell.get_attribute("data-value")) for cell in cells]
            case = next(case for case in results.scored if case.detector == detector)
            values = results.held_out[case].threshold(0.8).values
            value = values[0] if len(values) == 1 else list(values)
            expected = [reference(results, detector, d, value)[place] for d in ("letters", EVIL)]
            assert found == pytest.approx(expected, abs=1e-12)


def test_images_are_filtered_grouped_and_sorted(page, results):
    page.select_option("#detector", label="energy")
    page.click("#more")
    everything = page.locator("#cards .card").count()
    kept = next(iter(results.images.values()))
    assert everything == sum(len(kept[data]) for data in ("digits", "letters", EVIL))
    case = next(case for case in results.scored if case.detector == "energy")
    form = "#filters select"
    page.select_option(f"{form}[name=set]", label="letters")
    page.select_option(f"{form}[name=answer]", label="accepted")
    page.select_option(f"{form}[name=class]", label="class 1")
    its = results.scored[case]["letters"]
    passed = ~its.rejected(page.threshold) & (its.predicted == 1)
    expected = [i for i in kept["letters"] if passed[i]]
    assert page.locator("#cards .card").count() == len(expected) > 0
    alts = [e.get_attribute("alt") for e in page.locator("#cards img").all()]
    page.select_option(f"{form}[name=order]", label="most unknown first")
    first = page.locator("#cards img").first.get_attribute("alt")
    worst = max(expected, key=lambda i: float(its.score[i]))
    assert float(its.score[int(first.split()[1])]) == float(its.score[worst])
    assert all("answered class 1" in alt for alt in alts)
    page.select_option(f"{form}[name=group]", label="by nearest class")
    assert page.inner_text("#cards h3").startswith("class 1")


def test_an_image_is_enlarged_with_all_that_is_known(page, results):
    page.select_option("#detector", label="energy")
    page.select_option("#filters select[name=set]", label="letters")
    card = page.locator("#cards .card").first
    index = int(card.locator("img").get_attribute("alt").split()[1])
    card.click()
    case = next(case for case in results.scored if case.detector == "energy")
    its = results.scored[case]["letters"]
    words = page.inner_text("#detail")
    p = float(results.held_out[case].p_values(its.score[[index]], its.predicted[[index]])[0])
    assert f"{EVIL}/letters/{index}.png" in words
    assert f"{p:.3g} of known images look at least so strange" in words
    names = results.classes[case.run]
    assert f"Nearest class\n{names[int(its.predicted[index])]}" in words
    assert f"Runner-up\n{names[index % 3]}" in words
    assert "Nearest training images" in words
    assert "gemos:components=4" in words
    assert f"its {EVIL}" in words
    assert "0.13" in words
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#detail") != words
    page.keyboard.press("Escape")
    assert not page.locator("#detail").is_visible()


def test_p_values_are_those_of_the_held_out_scores(page, results):
    for detector in ("energy", "gemos:components=4"):
        page.select_option("#detector", label=detector)
        page.select_option("#set", label="letters")
        page.click("[data-axis=p]")
        page.select_option("#filters select[name=set]", label="letters")
        case = next(case for case in results.scored if case.detector == detector)
        its = results.scored[case]["letters"]
        p = results.held_out[case].p_values(its.score, its.predicted)
        for card in page.locator("#cards .card").all()[:12]:
            index = int(card.locator("img").get_attribute("alt").split()[1])
            text = card.locator("small").last.inner_text().removeprefix("p ")
            assert float(text) == pytest.approx(float(p[index]), rel=0.06)
    page.click("[data-axis=score]")


def test_no_name_becomes_code_and_the_policy_forbids_it(page, path):
    assert page.title() == EVIL
    assert page.locator("script").count() == 3
    # Later, as what playwright itself evaluates is exempt from the policy.
    tried = page.evaluate(
        """() => new Promise((done) => setTimeout(() => {
          try { done(eval("1")) } catch (error) { done(error.name) }
        }))"""
    )
    assert tried == "EvalError"
    page.said.clear()  # Some versions of Chromium say that they refused.


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_a_desk_and_a_phone(opened, path, width, scheme):
    with opened(path, width, 844, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        images = page.locator("img").all()
        assert all(image.evaluate("i => i.complete && i.naturalWidth > 0") for image in images)
        assert page.locator("#histogram svg path").count() > 2
        dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        page.click("#theme")  # as the system → light
        light = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (light == dark) == (scheme == "light")
        assert page.said == []


def test_all_that_can_be_used_has_a_name(page):
    """Buttons, fields and pictures, for who cannot see them."""
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, [role=img], img")]
        .filter((e) => e.checkVisibility())
        .filter((e) => !(e.ariaLabel || e.alt || e.textContent.trim()))
        .filter((e) => !e.labels?.[0]?.textContent.trim())
        .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert nameless == []


def test_curves_of_all_detectors_pass_through_the_point_of_the_threshold(page, results):
    page.select_option("#detector", label="energy")
    page.select_option("#set", label="letters")
    accepted, rejected, right, _ = page.numbers("#figures")
    label = page.get_attribute("#roc", "aria-label")
    assert f"accepts {100 * accepted:.1f} % of known and {100 * (1 - rejected):.1f} %" in label
    assert f"{100 * right:.1f} % of the other answers" in page.get_attribute(
        "#rejection", "aria-label"
    )
    assert page.locator("#roc path[stroke='var(--faint)']").count() == 2


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
        assert torch.tensor(shown_counts(page)).sum() == 270
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
        assert len(shown_counts(page)) == 14 + 1 + 2
        for name in page.locator("#detector option").all_inner_texts():
            page.select_option("#detector", label=name)
            page.slide("#accept", 9)
        assert page.said == []


def _known(score):
    from openset.evaluation.seen import Images
    from openset.scoring.scored import Scored

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
