"""The monitor goes on where it stopped, counts what it saw, and refuses other models' answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import call, fails
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from openset import OpenSet, Tap
from openset.detectors import Energy
from openset.life import monitor as module
from openset.life.course import draw, table
from openset.life.monitor import Monitor, totals
from openset.model.records import read, write


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    model = OpenSet(Tap(network), Energy(), classes=["=a", "b", "c"])
    return model.calibrate([(torch.rand(500, 1, 8, 8), torch.arange(500) % 3)], per_class=True)


@pytest.fixture(scope="module")
def records(made):
    images = torch.cat([torch.rand(900, 1, 8, 8), torch.rand(300, 1, 8, 8) * 0.5])
    return [answer.record() for answer in made.predict(images)]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_records_are_read_as_they_were_written(records, tmp_path, ending):
    file = tmp_path / f"answers.{ending}"
    write(records, file)
    assert read(file) == records


def test_parts_of_a_stream_give_what_all_of_it_does(made, records, tmp_path):
    at_once = Monitor(made)
    at_once.add(records)
    by_parts = Monitor(made)
    for part in (records[:1], [], records[1:700], records[700:]):
        by_parts.add(part)
        by_parts.save(tmp_path / "state.json")
        by_parts = Monitor.load(tmp_path / "state.json", made)
    assert (tmp_path / "state.json").stat().st_size < 20_000
    np.testing.assert_allclose(by_parts.state.active, at_once.state.active)
    for name in ("count", "arrivals", "first", "block"):
        assert getattr(by_parts.state, name) == getattr(at_once.state, name), name
    assert totals(by_parts.state.course) == totals(at_once.state.course)
    assert at_once.state.first > 900
    assert at_once.said()[0].startswith(f"ALARM: since image {at_once.state.first} of 1200")
    assert "ever sounds is at most 1.0%" in at_once.said()[1]


def test_the_course_counts_every_image_in_its_order(made, records, monkeypatch):
    monkeypatch.setattr(module, "BLOCKS", 8)
    watch = Monitor(made)
    watch.add(records)
    state = watch.state
    assert state.block == 200
    sizes = [sum(n for n, _ in block["classes"].values()) for block in state.course]
    assert sizes == [200] * 6
    for i, block in enumerate(state.course):
        part = records[200 * i : 200 * i + 200]
        unknown = sum(record["label"] == "unknown" for record in part)
        assert sum(u for _, u in block["classes"].values()) == unknown
    for name, (images, unknown) in watch.shares().items():
        own = [record["label"] for record in records if record["nearest"] == name]
        assert (images, unknown) == (len(own), own.count("unknown"))
    assert table(watch).row_count == len(watch.shares()) + 1


def block(winnings=0.0, **classes):
    return {"course": [{"classes": classes, "winnings": winnings}] * 2}


FORGED = [
    {"active": [0.0]}, {"active": [1e300] * 6}, {"active": ["1"] * 6}, {"highest": 1e300},
    {"arrivals": [[1.0]] * 3}, {"count": "5"}, {"count": 5}, {"block": 0}, {"block": 7},
    {"first": 0}, {"first": 51}, {"alarm": 5}, {"seed": -1}, {"format": 2}, {"files": [1]},
    {"course": []}, {"course": [1]}, {"course": [{"classes": {}}]}, block(b=[25]),
    block(b=["25", 1]), block(b=[25, 26]), block(b=[25, -1]), block(zebra=[25, 0]),
    block("1", b=[25, 0]),
]  # fmt: skip
"""Changes to the state after 50 images, which no stream can have left."""


def test_a_state_that_only_looks_forged_is_gone_on_with(made, records, tmp_path):
    watch = Monitor(made)
    watch.add(records[:50])
    watch.save(tmp_path / "state.json")
    told = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "same.json").write_text(json.dumps({**told, **block(b=[25, 0]), "seal": None}))
    assert Monitor.load(tmp_path / "same.json", made).state.count == 50


NAN = float("nan")
ANSWERS = {
    "short.csv": "path,label,nearest,score,p_value\na.png,b,b,1\n",
    "long.csv": "path,label,nearest,score,p_value\na.png,b,b,1,1,1\n",
    "word.csv": "path,label,nearest,score,p_value\na.png,b,b,high,1\n",
    "long-cell.csv": "path\n" + "x" * 200_000 + "\n",
    "empty.csv": "",
    "nul.csv": "path\n\0\0\n",
    "list.jsonl": "[1]\n",
    "number.jsonl": "3\n",
    "deep.jsonl": "[" * 100_000 + "\n",
    "half.jsonl": '{"score": 1.0, ',
    "bytes.parquet": "PAR1xxxx",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_files_of_no_answers_are_refused(made, tmp_path, name):
    (tmp_path / name).write_text(ANSWERS[name])
    with pytest.raises(ValueError, match="answers of"):
        Monitor(made).read([tmp_path / name])


@pytest.mark.parametrize(
    "how", [{"label": None}, {"nearest": [1]}, {"nearest": "d"}, {"score": {}}, {"score": NAN}]
)
def test_answers_with_other_values_are_refused(made, records, how):
    changed = {k: v for k, v in {**records[0], **how}.items() if v is not None}
    watch = Monitor(made)
    with pytest.raises(ValueError, match="these are no answers of this model, as openset predict"):
        watch.add([records[0], changed])
    assert watch.state.count == 0
    watch.add(records[:2])


def test_a_model_without_names_takes_its_own_numbers_only(made, records):
    bare = OpenSet(made.tap, made.detector)
    bare.set_threshold(made.threshold)
    bare.held_out = made.held_out
    numbered = [{**r, "nearest": str("=abc".index(r["nearest"][-1]) - 1)} for r in records]
    watch = Monitor(bare)
    watch.add(numbered)
    assert [*watch.shares()] == ["0", "1", "2"]
    for name in ("3", "99999999999", "x"):
        with pytest.raises(ValueError, match="these are no answers of this model"):
            watch.add([{**numbered[0], "nearest": name}])


def test_other_answers_and_other_models_are_refused(made, records, tmp_path):
    watch = Monitor(made)
    other = [{**record, "p_value": record["p_value"] / 2} for record in records]
    with pytest.raises(ValueError, match="p-values are not those of this model"):
        watch.add(other)
    with pytest.raises(ValueError, match=r"no answers of this model.*'nearest'"):
        watch.add([{"score": 1.0, "label": "b"}])
    assert watch.state.count == 0
    watch.add(records[:50])
    watch.save(tmp_path / "state.json")
    again = OpenSet(made.tap, Energy(), classes=made.classes)
    again.calibrate([(torch.rand(500, 1, 8, 8), torch.arange(500) % 3)])
    with pytest.raises(ValueError, match="about another model"):
        Monitor.load(tmp_path / "state.json", again)
    told = json.loads((tmp_path / "state.json").read_text())
    for change in FORGED:
        (tmp_path / "forged.json").write_text(json.dumps({**told, **change, "seal": None}))
        with pytest.raises(ValueError, match="cannot be gone on with"):
            Monitor.load(tmp_path / "forged.json", made)
    with pytest.raises(ValueError, match="alarm must lie between 0 and 1"):
        Monitor(made, alarm=1)
    with pytest.raises(ValueError, match="seed is -1; give a whole number of 0 or more"):
        Monitor(made, seed=-1)


def test_a_file_is_taken_in_once(made, records, tmp_path):
    write(records[:9], tmp_path / "monday.csv")
    watch = Monitor(made)
    with pytest.raises(ValueError, match=r"monday\.csv was taken in before"):
        watch.read([tmp_path / "monday.csv"] * 2)
    (tmp_path / "x.csv").write_text("score,nearest\nhigh,b\n")
    with pytest.raises(ValueError, match="holds no answers of openset predict"):
        watch.read([tmp_path / "x.csv"])


def test_images_without_an_order_are_shuffled(made, records, tmp_path):
    known = sorted(records[:900], key=lambda record: record["score"])
    write(known, tmp_path / "sorted.csv")
    for shuffle in (False, True):
        watch = Monitor(made)
        watch.read([tmp_path / "sorted.csv"], shuffle=shuffle)
        assert (watch.state.first is None) == shuffle
        assert watch.state.count == 900
    again = Monitor(made)
    again.read([tmp_path / "sorted.csv"], shuffle=True)
    assert again.state == watch.state


def test_the_command_goes_on_from_its_state(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = load_digits()
    for day, chosen in (("known", source.target < 6), ("strange", source.target > 5)):
        Path(day).mkdir()
        for i, image in enumerate(source.images[chosen][-150:]):
            Image.fromarray(np.uint8(image * 15.9)).save(f"{day}/{i:03}.png")
        call("predict", run, day, "--detector", "energy", "--out", f"{day}.csv")
    given = ("--detector", "energy", "--state", "state.json", "--out", "course.svg")
    call("monitor", run, "known.csv", *given)
    said = capsys.readouterr()
    assert "no alarm in 150 images" in said.err
    assert "--shuffle" not in said.err
    assert "together" in said.out
    call("monitor", run, "strange.csv", *given)
    said = capsys.readouterr()
    assert "ALARM: since image 1" in said.err
    assert "have no order in time" in said.err
    assert "<svg" in Path("course.svg").read_text()
    assert "was taken in before" in fails(capsys, "monitor", run, "known.csv", *given)
    assert "end the name in .svg" in fails(
        capsys, "monitor", run, "known.csv", "--detector", "energy", "--out", "course.txt"
    )


def test_picture_and_state_are_written_both_or_none(run, tmp_path, capsys, monkeypatch, pictures):
    monkeypatch.chdir(tmp_path)
    call("predict", run, pictures, "--detector", "energy", "--out", "answers.csv")
    watch = ("monitor", run, "answers.csv", "--detector", "energy")
    for state, out, said in (
        ("state.json", "course.gif", "end the name in"),
        ("state.json", "answers.csv/course.svg", "answers.csv"),
        ("answers.csv/state.json", "course.svg", "answers.csv"),
        ("course.svg", "course.svg", "are one file"),
        ("pictures", "course.svg", "no ordinary file"),
    ):
        assert said in fails(capsys, *watch, "--state", state, "--out", out)
        assert {path.name for path in tmp_path.iterdir()} == {"answers.csv", "pictures"}


def test_winnings_beyond_any_float_are_told(made, records):
    watch = Monitor(made)
    watch.add(records[:1])
    watch.state.course[-1]["winnings"] = 5000.0
    assert "a stake of 1 has become 2.97e+2171, at the most 1;" in watch.said()[0]


def test_a_stream_of_nothing_is_drawn(made, tmp_path):
    watch = Monitor(made)
    watch.add([])
    draw(watch, tmp_path / "course.png")
    assert table(watch).row_count == 1
    assert watch.said()[0].startswith("no alarm in 0 images: a stake of 1 has become 1,")
