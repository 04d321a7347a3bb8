"""Records of predictions in files and on the screen, whatever images are called."""

import csv
import json
import os
import sys
from io import StringIO

import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image
from torch import nn

from openset import OpenSet, Tap
from openset.data import Adapter
from openset.detectors import Energy
from openset.model.maps import names_of, write_maps
from openset.model.predict import answers, opened
from openset.model.predict_files import predict_files
from openset.model.records import print_csv, write
from openset.text import plain_cell

NAMES = ["=1+1.png", "a\rb.png", "caf\udce9.png", 'say "x", y.png', "\x1b[31mred.png"]

RECORDS = [
    {"path": name, "label": "@cat", "score": -1.5, "threshold": float(i), "p_@cat": 1.0}
    for i, name in enumerate(NAMES)
]

WRITTEN = [name.replace("\udce9", "\\xe9") for name in NAMES]
"""Names that a reader of the file must find."""


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    model = OpenSet(Tap(network), Energy(), classes=["=a", "b", "c"], adapter=Adapter((8, 8), 1))
    return model.calibrate([(torch.rand(40, 1, 8, 8), torch.arange(40) % 3)])


def test_names_come_back_from_every_format(tmp_path):
    for ending in ("csv", "jsonl", "parquet"):
        assert write(iter(RECORDS), tmp_path / f"out.{ending}") == len(NAMES)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert rows[0]["path"] == "'=1+1.png"
    assert {row["label"] for row in rows} == {"'@cat"}
    assert [row["score"] for row in rows] == ["-1.5"] * len(NAMES)
    for found in (rows, list(map(json.loads, lines)), table):
        assert [plain_cell(record["path"]) for record in found] == WRITTEN
    assert table[0]["score"] == -1.5


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_gets_no_escape_sequence_and_a_pipe_the_name(terminal, monkeypatch):
    screen = StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdout", screen)
    assert print_csv(iter(RECORDS)) == len(NAMES)
    assert ("\x1b" in screen.getvalue()) == (not terminal)
    assert ("\\x1b[31mred.png" in screen.getvalue()) == terminal


def test_broken_files_cost_no_other(model, pictures, tmp_path):
    whole = {answer.path: answer for answer in model.predict(pictures)}
    for name in ("0-broken.png", "3-broken.png", "z.png"):
        (pictures / name).write_bytes(b"no image")
    for batch_size in (1, 2, 256):
        found = opened(model, pictures, batch_size)
        given = list(answers(model, found))
        assert [answer.path for answer in given] == list(whole)
        assert all(a.score == pytest.approx(whole[a.path].score) for a in given)
        assert len(found.skipped) == 3
    with pytest.raises(ValueError, match=r"3 of 8 files have no answer: .*0-broken.*; the other 5"):
        predict_files(model, [pictures], tmp_path / "out.csv")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 6
    said = predict_files(model, [pictures], tmp_path / "out.csv", skip_bad=True)
    assert said[-1] == "3 files skipped"


def test_files_are_judged_together(model, pictures, tmp_path):
    said = predict_files(model, [pictures], tmp_path / "out.csv", fdr=0.5, storey=True)
    assert said[1].endswith("of 5 images are called unknown.")
    assert "at most 50.0% of the images so called are known ones" in said[2]
    assert "drawn as the 40 held-out ones" in said[2]
    with (tmp_path / "out.csv").open(newline="") as file:
        assert all(0 <= float(row["q_value"]) <= 1 for row in csv.DictReader(file))
    pixels = OpenSet(Tap(nn.Conv2d(1, 3, 1)), Energy(), adapter=Adapter((8, 8), 1))
    pixels.held_out = model.held_out
    with pytest.raises(ValueError, match="labels pixels, which depend on each other"):
        predict_files(pixels, [pictures], tmp_path / "maps", fdr=0.1)


def test_files_that_are_all_broken_are_named(model, tmp_path):
    for name in ("a.png", "b.png", "c.png", "d.png", "e.png"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"5 of 5 files .*a\.png.*; and 2 more; the other 0"):
        predict_files(model, [tmp_path], tmp_path / "out.csv")


def test_maps_are_written_of_what_can_be_read(pictures, tmp_path):
    network = nn.Conv2d(1, 3, 1)
    model = OpenSet(Tap(network), Energy(), adapter=Adapter((8, 8), 1))
    (pictures / "=1.png").write_bytes((pictures / "1.png").read_bytes())
    (pictures / "2.png").write_bytes(b"no image")
    out = tmp_path / "maps"
    with pytest.raises(ValueError, match=r"1 of 6 files .*2\.png.*; the other 5 are answered in"):
        predict_files(model, [pictures], out)
    with (out / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["0", "1", "3", "4", "'=1"]
    assert not (out / "2.labels.png").exists()
    (pictures / "2.png").unlink()
    assert write_maps(model, opened(model, [pictures / "2.jpg", pictures][1:]), out) == 5


def test_maps_show_what_is_left_of_a_cut_image(pictures, tmp_path):
    adapter = Adapter((6, 8), 1, resize="shorter", scaled=(12, 12))
    model = OpenSet(Tap(nn.Conv2d(1, 3, 1)), Energy(), adapter=adapter)
    predict_files(model, [pictures / "1.png"], tmp_path / "maps")
    with Image.open(tmp_path / "maps" / "1.labels.png") as labels:
        assert labels.size == (8, 6)


def test_no_map_takes_the_place_of_another():
    names = names_of(["x/a.png", "y/A.png", "a-1.png", "z/a.png"])
    assert len({name.lower() for name in names}) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_files_whose_names_are_no_utf8_are_answered(model, pictures, tmp_path, ending):
    image = (pictures / "1.png").read_bytes()
    (pictures / os.fsdecode(b"caf\xe9.png")).write_bytes(image)
    (pictures / os.fsdecode(b"bad\xff.png")).write_bytes(b"no image")
    out = tmp_path / f"out.{ending}"
    said = predict_files(model, [pictures], out, skip_bad=True)
    assert said[0].startswith("6 images")
    assert "bad\\xff.png" in said[1]
    text = str(parquet.read_table(out).to_pylist()) if ending == "parquet" else out.read_text()
    assert "caf\\xe9.png" in text.replace("\\\\", "\\")
