"""The page holds what the results hold, nothing from elsewhere, and a browser shows it whole."""

import base64
import html
import math
import os
import re
import shutil
import subprocess
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch

from openset.activations import UNKNOWN
from openset.evaluation.results import Results
from openset.evaluation.rows import Case, Row
from openset.evaluation.seen import Images
from openset.reporting import report
from openset.reporting.page import first_seeds
from openset.scoring.scored import Scored

EVIL = "<script>document.title='hacked'</script>&\"'"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def scored(count, shift, classes, unknown=False):
    predicted = torch.randint(classes, (count,))
    label = torch.where(torch.rand(count) < 0.9, predicted, torch.randint(classes, (count,)))
    score = torch.randn(count) + shift
    return Images(Scored(score, torch.full_like(label, UNKNOWN) if unknown else label, predicted))


def example(classes=3, seeds=1, detectors=("energy", "gemos:components=4"), size=8, count=90):
    torch.manual_seed(0)
    results = Results(notes={"data": EVIL})
    for seed in range(seeds):
        for detector in detectors:
            case = Case("demo", seed, "cnn", "cross-entropy", detector, "digits")
            sets = {
                "letters": scored(count, 1, classes, unknown=True),
                EVIL: scored(count, 500, classes, unknown=True),
            }
            threshold = {
                "value": 1.64,
                "accept": 0.95,
                "n": 400,
                "guarantee": "At least 95 % are accepted, on average.",
                "interval": (0.0, 1.0),
            }
            paper = {("letters", "auroc"): 0.77}
            names = [EVIL, *(f"class {c}" for c in range(1, classes))]
            known = scored(count, 0, classes)
            results.add(case, known, sets, threshold, classes=names, paper=paper)
    for run in list(results.classes):
        for data, indices in results.wanted_images(run).items():
            results.keep_images(run, data, {i: torch.rand(3, size, size) for i in indices})
    return results


class Page(HTMLParser):
    """A page's tags, text and pictures."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.images, self.text = [], [], ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data):
        self.text += data

    @property
    def words(self):
        return " ".join(self.text.split())


@pytest.fixture
def page(tmp_path):
    return Page(report(example(), tmp_path / "report.html", title=EVIL))


def test_the_page_shows_figures_thresholds_and_worst_images(page):
    results = example()
    case = next(iter(results.scored))
    auroc = next(row.value for row in results.rows if row.metric == "auroc")
    assert f"{auroc:.3f}" in page.words
    assert "paper 0.77" in page.words
    accepted = 1 - results.scored[case]["digits"].rejected(1.64).double().mean()
    assert f"{100 * accepted:.1f} % of 90 known test images accepted, inside" in page.words
    assert "At least 95 % are accepted, on average." in page.words
    for i in results.examples(case, "letters"):
        assert any(f"Image {i} of letters" in image["alt"] for image in page.images)
        assert f"{float(results.scored[case]['letters'].score[i]):.4g}" in page.words
    # Per detector: 2 histograms, ROC, confusion matrix, 8 images of each of 3 sets.
    assert len(page.images) == 2 * (2 + 1 + 1 + 3 * 8)


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({}, False),
        ({"interval": (0.99, 1.0), "value": -1.0}, True),
        ({"doubt": "it has seen them", "guarantee": "No guarantee holds."}, True),
    ],
)
def test_a_promise_that_does_not_hold_is_a_warning(changes, warned, tmp_path):
    results = example()
    for record in results.thresholds.values():
        record |= changes
    page = Page(report(results, tmp_path / "report.html"))
    assert (("div", {"class": "warning"}) in page.tags) == warned


def test_names_are_escaped_everywhere(page):
    assert not any(tag == "script" for tag, _ in page.tags)
    assert EVIL in page.text
    pictures = [image["src"] for image in page.images if "svg" in image["src"]]
    for picture in pictures:
        svg = ElementTree.fromstring(base64.b64decode(picture.partition(",")[2]))
        assert not [element for element in svg.iter() if "script" in element.tag]


def test_nothing_comes_from_elsewhere(page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name) or "data:"
            assert value.startswith(("data:", "#")), (tag, value)
    assert "default-src 'none'" in page.source
    assert not re.search(r"@import|url\(", page.source)


def test_every_picture_has_a_text_for_who_cannot_see_it(page):
    assert all(len(image["alt"]) > 10 for image in page.images)


def test_the_same_results_give_the_same_page(page, tmp_path):
    again = report(example(), tmp_path / "again.html", title=EVIL)
    assert again.read_text(encoding="utf-8") == page.source


def test_of_several_seeds_the_details_are_the_first(tmp_path):
    results = example(seeds=3)
    assert [case.seed for case in first_seeds(results)] == [0, 0]
    words = Page(report(results, tmp_path / "report.html")).words
    assert "over 3 seeds" in words
    assert "±" in words


def test_runs_that_differ_are_told_apart(tmp_path):
    results = Results()
    for network in ("cnn", "vgg"):
        case = Case(network=network, detector="energy", known="digits")
        results.add(case, scored(20, 0, 3), {"u": scored(20, 1, 3, unknown=True)})
    words = Page(report(results, tmp_path / "report.html")).words
    assert "energy · cnn" in words
    assert "energy · vgg" in words


def test_figures_alone_without_scores_make_a_page(tmp_path):
    rows = [Row(detector="csi", known="k", unknown="u", metric="auroc", paper=0.98)]
    page = Page(report(Results(rows), tmp_path / "report.html"))
    assert "– paper 0.98" in page.words
    assert not page.images
    assert "Nothing was measured" in Page(report(Results(), tmp_path / "empty.html")).words


def test_without_threshold_classes_or_images_the_rest_is_shown(tmp_path):
    results, case = Results(), Case(detector="energy", known="digits")
    results.add(case, scored(30, 0, 4), {"u": scored(30, 1, 4, unknown=True)})
    page = Page(report(results, tmp_path / "report.html"))
    assert [image["alt"].split()[0] for image in page.images] == ["Histogram", "Share"]


def test_a_threshold_per_class_and_infinite_scores_are_drawn(tmp_path):
    results = example()
    for case in results.scored:
        results.thresholds[case] = {"value": [1.0, 1.5, math.inf]}
        results.scored[case]["letters"].score[:5] = math.inf
        results.scored[case]["digits"].score[:2] = -math.inf
    page = Page(report(results, tmp_path / "report.html"))
    assert "one for each of 3 classes, 1 … inf" in page.words


@pytest.mark.parametrize("value", [0.0, 1e30, -1e-30, math.inf])
def test_constant_scores_are_drawn(tmp_path, value):
    results, case = Results(), Case(detector="energy", known="digits")
    label = torch.zeros(9).long()
    same = Scored(torch.full((9,), value), label, label)
    results.add(case, Images(same), {"u": Images(replace(same, label=label - 1))}, {"value": value})
    assert len(Page(report(results, tmp_path / "report.html")).images) == 3


def test_a_hundred_classes_in_any_script(tmp_path):
    results = example(classes=100, count=300, detectors=["energy"])
    for run, names in results.classes.items():
        results.classes[run] = ["漢字", "$x_1$", *names[2:]]
    page = Page(report(results, tmp_path / "report.html"))
    assert "漢字" in page.text


def test_extra_figures_are_shown(tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 30), "red").save(tmp_path / "x.png")
    results = example()
    results.figures["t-SNE <of> the ensemble"] = (tmp_path / "x.png").read_bytes()
    page = Page(report(results, tmp_path / "report.html"))
    assert page.images[-1]["alt"] == "t-SNE <of> the ensemble"


def test_pictures_of_a_case_stand_in_its_section(tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 30), "red").save(tmp_path / "x.png")
    results = example(seeds=2)
    first, *_, last = results.scored
    for case in (first, last):  # Of two seeds, only the first is shown.
        results.pictures[case] = {"letters": (tmp_path / "x.png").read_bytes()}
    page = Page(report(results, tmp_path / "report.html"))
    assert page.words.count("letters: image, answer, score, truth") == 1
    assert "Further pictures" not in page.words


def test_large_images_stay_small_on_the_page(tmp_path):
    path = report(example(size=300), tmp_path / "report.html")
    assert path.stat().st_size < 1_000_000
    assert "data:image/webp" in path.read_text(encoding="utf-8")


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report(example(), tmp_path / "report.html")
    assert dict(matplotlib.rcParams) == before


def test_an_interrupted_report_leaves_the_older_one(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        report(example(), path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.html", "old")]


def browse(page, profile):
    """Opens a page in headless Chromium; its console's messages, and the document at the end."""
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync --disable-dev-shm-usage"
    command = [BROWSER, "--headless", "--no-sandbox", *quiet.split(), "--dump-dom"]
    command += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000"]
    command += [f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return re.findall(r"CONSOLE.*", done.stderr), done.stdout


needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium here; `apt-get install chromium` runs this test"
)


@needs_browser
def test_a_browser_shows_the_page_without_complaint(tmp_path):
    path = report(example(), tmp_path / "report.html", title=EVIL)
    console, document = browse(path, tmp_path / "profile")
    assert console == []
    title = re.search("<title>(.*?)</title>", document)
    assert title is not None
    assert html.unescape(title[1]) == EVIL


# The page itself runs no script, so a copy counts its pictures.
COUNT = """<script>addEventListener("load", () => {
  const seen = [...document.images].filter(image => image.complete && image.naturalWidth > 0)
  const wide = document.documentElement.scrollWidth > innerWidth
  document.body.dataset.seen = seen.length + "/" + document.images.length
  document.body.dataset.overflow = wide
})</script></body>"""


@needs_browser
@pytest.mark.parametrize("broken", [False, True])
def test_a_browser_draws_every_picture(tmp_path, broken):
    path = report(example(), tmp_path / "report.html")
    source = re.sub(r"<meta http-equiv.*>", "", path.read_text(encoding="utf-8"))
    source = source.replace("</body>", COUNT)
    if broken:  # so that the check is seen to fail
        source = source.replace("<main>", '<main><img src="data:image/png;base64,AAAA">')
        source = source.replace("<main>", "<main><script>console.error('seen')</script>")
    path.write_text(source, encoding="utf-8")
    console, document = browse(path, tmp_path / "profile")
    assert f'data-seen="56/{56 + broken}"' in document
    assert 'data-overflow="false"' in document
    assert bool(console) == broken
