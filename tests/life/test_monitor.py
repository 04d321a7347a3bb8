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
    for change in ({"active": [0.0]}, {"arrivals": [[1.0]] * 3}, {"count": "5"}):
        (tmp_path / "forged.json").write_text(json.dumps({**told, **change, "seal": None}))
        with pytest.raises(ValueError, match="cannot be gone on with"):
            Monitor.load(tmp_path / "forged.json", made)
    with pytest.raises(ValueError, match="alarm must lie between 0 and 1"):
        Monitor(made, alarm=1)


def test_a_file_is_taken_in_once(made, records, tmp_path):
    write(records[:9], tmp_path / "monday.csv")
    watch = Monitor(made)
    with pytest.raises(ValueError, match=r"monday\.csv was taken in before"):
        watch.read([tmp_path / "monday.csv"] * 2)
    (tmp_path / "x.csv").write_text("score,nearest\nhigh,b\n")
    with pytest.raises(ValueError, match="holds no answers of openset predict"):
        watch.read([tmp_path / "x.csv"])


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
    assert "together" in said.out
    call("monitor", run, "strange.csv", *given)
    said = capsys.readouterr()
    assert "ALARM: since image 1" in said.err
    assert "<svg" in Path("course.svg").read_text()
    assert "was taken in before" in fails(capsys, "monitor", run, "known.csv", *given)
    assert "end the name in .svg" in fails(
        capsys, "monitor", run, "known.csv", "--detector", "energy", "--out", "course.txt"
    )


def test_a_stream_of_nothing_is_drawn(made, tmp_path):
    watch = Monitor(made)
    watch.add([])
    draw(watch, tmp_path / "course.png")
    assert table(watch).row_count == 1
    assert watch.said()[0].startswith("no alarm in 0 images: a stake of 1 has become 1,")
