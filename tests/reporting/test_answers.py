"""`openset predict --report`: the page of a folder's answers says what the table says."""

import csv

import pytest
import torch
from PIL import Image
from torch import nn

from openset import OpenSet, Tap, networks
from openset.data import Adapter
from openset.detectors import Energy
from openset.model.predict_files import predict_files


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = networks.cnn(3, 1, widths=(4, 8), hidden=8).eval()
    adapter = Adapter((8, 8), channels=1)
    made = OpenSet(Tap(network), Energy(), classes=["a", "b", "</script>"], adapter=adapter)
    return made.calibrate([(torch.rand(200, 1, 8, 8), torch.arange(200) % 3)], accept=0.9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("pictures")
    for i in range(40):
        (home / "ab"[i % 2]).mkdir(exist_ok=True)
        image = Image.effect_noise((30, 20), 5 + 6 * i)
        image.save(home / "ab"[i % 2] / f"<b>{i:02}.png")
    return home


@pytest.fixture
def answered(model, folder, tmp_path, opened):
    def asking(**options):
        page, table = tmp_path / "page.html", tmp_path / "table.csv"
        said = predict_files(model, [folder], table, report=page, **options)
        assert f"report: {page}" in said
        rows = list(csv.DictReader(table.read_text().splitlines()))
        return opened(page), rows

    return asking


@pytest.mark.parametrize("options", [{}, {"accept": 0.5}, {"threshold": -0.9}, {"fdr": 0.3}])
def test_the_page_counts_what_the_table_counts(answered, options):
    page, rows = answered(**options)
    unknown = [row for row in rows if row["label"] == "unknown"]
    with page as page:
        share = len(unknown) / len(rows)
        assert page.numbers("#sentence")[:2] == [len(unknown), share]
        assert page.numbers("#figures")[0] == share
        shown = page.locator("#cards .card")
        assert shown.count() == len(unknown)
        p = sorted(f"p {float(row['p_value']):.2g}" for row in unknown)
        assert sorted(card.inner_text().split("\n")[-1].strip() for card in shown.all()) == p
        assert not page.locator("#compare, #curves:visible, #classes:visible").count()
        page.select_option("#filters select[name=answer]", label="all answers")
        page.select_option("#filters select[name=group]", label="by folder")
        assert shown.count() == 40
        heads = page.locator("#cards h3").all_inner_texts()
        assert sorted(head.split()[0].rstrip("/")[-1] for head in heads) == ["a", "b"]
        shown.first.click()
        assert "<b>" in page.inner_text("#detail")
        assert page.said == []


def test_the_held_out_images_stand_beside(answered, model):
    page, _ = answered(accept=0.8)
    (scores,) = model.held_out.scores()
    rejected = float((scores > model.with_accept(0.8).threshold.values[0]).double().mean())
    with page as page:
        assert page.numbers("#sentence")[2] == pytest.approx(rejected)
        page.slide("#accept", 49)
        scores = (scores > page.threshold).double().mean()
        assert page.numbers("#sentence")[2] == pytest.approx(float(scores))
        assert "future known images" in page.inner_text("#promise")


def test_pixels_are_drawn_without_truth(tmp_path, folder, opened):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1)).eval()
    model = OpenSet(
        Tap(network), Energy(), classes=["x", "y", "z"], adapter=Adapter((20, 30), channels=1)
    )
    model.calibrate([(torch.rand(4, 1, 20, 30), torch.randint(3, (4, 20, 30)))])
    page = tmp_path / "page.html"
    predict_files(model, [folder / "a"], tmp_path / "maps", report=page)
    with opened(page) as page:
        assert page.locator("#map-list .maps").count() == 8
        assert page.locator("#map-list .maps >> nth=0 >> figure").count() == 3
        before = page.inner_text("#map-list .maps >> nth=0 >> .note")
        page.slide("#accept", 20)
        assert page.inner_text("#map-list .maps >> nth=0 >> .note") != before
        assert "of the pixels unknown" in page.inner_text("#sentence")
        assert page.said == []
