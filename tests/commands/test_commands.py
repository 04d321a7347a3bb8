"""The commands as a user meets them, and what they say to bad input."""

import csv
import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from command_line import call, fails
from PIL import Image
from safetensors.torch import load_file

from openset.data import Adapter
from openset.detectors import Energy
from openset.evaluation.results import Results
from openset.model.predict import COLUMNS
from openset.runs.run import Run


def test_a_run_says_what_it_is(run):
    told = Run.load(run)
    assert told.classes == list("012345")
    assert told.adapter.size == (8, 8)
    assert told.accuracy["test"] > 0.8
    assert told.models == ["energy", "gemos:components=1"]
    assert len((run / "log.jsonl").read_text().splitlines()) == 6


def test_show_writes_what_the_network_sees(run, tmp_path, capsys):
    stored, out = tmp_path / "stored.png", tmp_path / "seen.png"
    Image.linear_gradient("L").save(stored)
    adapter = Run.load(run).adapter
    for place in (run, Run.load(run).model_folder("energy")):
        call("show", place, stored, "--out", out)
        with Image.open(out) as seen:
            assert torch.equal(adapter(seen), adapter.open(stored))
        assert "stretched to 8 × 8 (bilinear), grey" in capsys.readouterr().err
    assert "end the name in .png" in fails(capsys, "show", run, stored, "--out", tmp_path / "seen")


def test_training_keeps_how_images_are_resized(tmp_path):
    way = ("--size", 8, "--resize", "shorter", "--interpolation", "bicubic")
    for name in ("a", "b"):
        for i, split in enumerate(["train"] * 6 + ["test"] * 2):
            place = tmp_path / "data" / split / name / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.linear_gradient("L").resize((16, 10 + i)).save(place)
    out = tmp_path / "run"
    call("train", tmp_path / "data", "--out", out, *way, "--epochs", 1, "--valid", 0.3)
    run = Run.load(out)
    assert run.adapter == Adapter((8, 8), 1, resize="shorter", interpolation="bicubic")
    assert run.load_data().test.adapter == run.adapter


def test_evaluate_writes_the_table_and_the_report(run, tmp_path, capsys):
    out = tmp_path / "out"
    call(
        "evaluate", run, "--unknown", "gaussian-noise,limit=200", "--detector", "odin", "--out", out
    )
    assert "AUROC" in capsys.readouterr().out
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = ("protocol", "seed", "network", "objective", "detector", "known", "unknown")
    assert tuple(rows[0]) == (*columns, "metric", "value", "paper")
    auroc = [row for row in rows if row["metric"] == "auroc"]
    assert [(row["detector"], row["network"]) for row in auroc] == [("odin", "cnn")]
    assert "<html" in (out / "report.html").read_text()[:200]
    assert "odin" in Run.load(run).models, "a detector fitted on the way is kept"


def test_tune_saves_a_model_whose_results_say_what_it_was_tuned_on(run, tmp_path, capsys):
    grid = ("--grid", "temperature=1+100,epsilon=0+0.01")
    known_only = ("tune", run, "--detector", "msp", "--grid", "temperature=1+3")
    call(*known_only)
    assert "digits (held out)" in capsys.readouterr().err
    call("tune", run, "--detector", "odin", "--unknown", "uniform-noise,limit=100", *grid)
    (tuned,) = (name for name in Run.load(run).models if name.startswith("odin:"))
    model = Run.load(run).load_model(tuned)
    assert model.detector.tuned_on == ("digits (held out)", "uniform-noise,limit=100")
    assert "the 72 held-out ones" in model.threshold.guarantee()
    out = tmp_path / "out"
    call("evaluate", run, "--unknown", "gaussian-noise,limit=90", "--detector", tuned, "--out", out)
    rows = csv.DictReader((out / "results.csv").read_text().splitlines())
    assert {row["tuned_on"] for row in rows} == {"digits (held out) + uniform-noise,limit=100"}
    assert "tuned on digits (held out) + uniform-noise" in (out / "report.html").read_text()


def test_tune_and_evaluate_refuse_the_same_unknown_data(run, tmp_path, capsys):
    tune = ("tune", run, "--detector", "msp:temperature=2", "--grid", "temperature=4")
    noise = ("--unknown", "uniform-noise,limit=50")
    said = fails(capsys, *tune, *noise, "--tested-on", "uniform-noise")
    assert "uniform-noise,limit=50 is an unknown set of the test" in said
    call(*tune, *noise, "--tested-on", "uniform-noise", "--allow-leak")
    capsys.readouterr()
    evaluate = ("evaluate", run, "--detector", "msp:temperature=4", "--unknown", "uniform-noise")
    assert "is an unknown set of the test" in fails(capsys, *evaluate, "--out", tmp_path / "a")
    call(*evaluate, "--out", tmp_path / "b", "--allow-leak")
    capsys.readouterr()
    assert "expected SETTING=VALUE" in fails(capsys, *tune[:4], "--grid", "4")


def test_evaluate_takes_the_classes_left_out_by_default(run, tmp_path):
    call(
        "evaluate",
        run,
        "--detector",
        "energy",
        "--detector",
        "gemos:components=1",
        "--out",
        tmp_path / "o",
    )
    results = Results.load(tmp_path / "o")
    assert {row.unknown for row in results.rows if row.metric == "auroc"} == {"digits left out"}
    assert {row.detector for row in results.rows} == {"energy", "gemos:components=1"}
    f1 = [row.value for row in results.rows if row.metric == "macro_f1"]
    assert len(f1) == 2
    assert min(f1) > 0.5


def test_report_is_made_again_from_the_folder(run, tmp_path):
    call("evaluate", run, "--detector", "energy", "--out", tmp_path / "o")
    page = tmp_path / "o" / "report.html"
    page.unlink()
    call("report", tmp_path / "o")
    assert page.stat().st_size > 10_000


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_predict_writes_every_format(run, pictures, tmp_path, ending):
    out = tmp_path / f"out.{ending}"
    call(
        *("predict", run, pictures, "--detector", "energy", "--out", out, "--probabilities"),
    )
    records = read(out)
    assert [record["path"] for record in records] == sorted(str(p) for p in pictures.iterdir())
    for record in records:
        known = float(record["score"]) <= float(record["threshold"])
        assert (record["label"] != "unknown") == known
        assert sum(float(record[f"p_{c}"]) for c in "012345") == pytest.approx(1, abs=1e-5)


def test_predict_adds_the_confidence_that_a_paper_shows(run, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(Energy, "confidence", lambda self, score: score.sigmoid())
    call("predict", run, pictures, "--detector", "energy", "--out", tmp_path / "out.csv")
    for record in read(tmp_path / "out.csv"):
        assert list(record) == [*COLUMNS, "confidence"]
        expected = 1 / (1 + math.exp(-float(record["score"])))
        assert float(record["confidence"]) == pytest.approx(expected, rel=1e-5)


def read(path):
    if path.suffix == ".csv":
        with path.open() as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    import pyarrow.parquet as parquet

    return parquet.read_table(path).to_pylist()


def test_predict_works_in_a_fresh_process_from_the_model_alone(run, pictures, tmp_path):
    model = tmp_path / "elsewhere"
    (run / "models" / "energy").rename(model)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "openset", "predict", str(model), str(pictures / "*.png")],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
    finally:
        model.rename(run / "models" / "energy")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert len(rows) == 4
    assert list(rows[0]) == [*COLUMNS]


def test_a_bad_image_costs_no_other_and_is_named_or_skipped(run, pictures, tmp_path, capsys):
    good = tmp_path / "good.csv"
    call("predict", run, pictures, "--detector", "energy", "--out", good)
    (pictures / "2-broken.png").write_bytes(b"\x89PNG not really")
    (pictures / "empty.png").touch()
    out = tmp_path / "o.csv"
    capsys.readouterr()
    said = fails(capsys, "predict", run, pictures, "--detector", "energy", "--out", out)
    assert "2 of 7 files have no answer" in said
    assert "2-broken.png" in said
    assert "empty.png" in said
    assert f"the other 5 are answered in {out}; --skip-bad" in said
    assert out.read_text() == good.read_text()
    assert "the other 5 are answered;" in fails(
        capsys, "predict", run, pictures, "--detector", "energy"
    )
    out.unlink()
    call("predict", run, pictures, "--detector", "energy", "--out", out, "--skip-bad")
    said = capsys.readouterr().err
    assert "2 files skipped" in said
    assert out.read_text() == good.read_text()


def test_weights_are_kept_by_no_epochs(run, tmp_path, capsys):
    given = ("train", "digits", "--known-classes", "0-5", "--network", "cnn:widths=8+16,hidden=32")
    kept = tmp_path / "kept"
    call(*given, "--weights", run / "network.safetensors", "--epochs", 0, "--out", kept)
    first, second = (load_file(folder / "network.safetensors") for folder in (run, kept))
    assert all(torch.equal(first[key], second[key]) for key in first)
    capsys.readouterr()
    assert "name them" in fails(capsys, *given, "--epochs", 0, "--out", tmp_path / "none")


def test_tables_of_predictions_have_columns_without_rows(run, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    for ending in ("csv", "parquet"):
        out = tmp_path / f"none.{ending}"
        call("predict", run, tmp_path, "--detector", "energy", "--skip-bad", "--out", out)
        if ending == "csv":
            assert out.read_text() == ",".join(COLUMNS) + "\n"
        else:
            import pyarrow.parquet as parquet

            assert parquet.read_schema(out).names == [*COLUMNS]


def test_an_interrupted_training_waits_for_resume(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    common = ("train", "digits", "--known-classes", "0,1", "--network", "cnn:widths=4+8,hidden=8")
    settings = ("--out", out, "--epochs", "3", "--optimizer", "adam", "--lr", "0.01")

    def interrupt(*_):
        raise KeyboardInterrupt

    from openset.objectives import CrossEntropy

    start = CrossEntropy.start_epoch
    monkeypatch.setattr(
        CrossEntropy, "start_epoch", lambda self, epoch: interrupt() if epoch == 2 else None
    )
    with pytest.raises(SystemExit) as stop:
        call(*common, *settings)
    assert stop.value.code == 130
    assert "stopped" in capsys.readouterr().err
    monkeypatch.setattr(CrossEntropy, "start_epoch", start)
    assert not out.exists()
    assert "--resume" in fails(capsys, *common, *settings)
    call(*common, *settings, "--resume")
    assert Run.load(out).accuracy["test"] > 0.5
    assert [json.loads(x)["epoch"] for x in (out / "log.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
    ]


def test_list_names_what_there_is(capsys):
    call("list", "detectors")
    said = capsys.readouterr().out
    assert "gemos" in said
    assert "odin" in said
    call("list", "data")
    assert "digits" in capsys.readouterr().out


def test_demo_does_the_whole_job(tmp_path, capsys):
    call("demo", tmp_path / "demo")
    results = Results.load(tmp_path / "demo")
    auroc = {row.detector: row.value for row in results.rows if row.metric == "auroc"}
    assert max(auroc.values()) > 0.97
    assert (tmp_path / "demo" / "report.html").exists()
    assert torch.isfinite(torch.tensor(list(auroc.values()))).all()


def test_vmdls_takes_the_autoencoder_of_another_run_and_holds_it(run, pictures, tmp_path, capsys):
    other = tmp_path / "autoencoder"
    call(
        *("train", "digits", "--known-classes", "0-5", "--valid", "0.2", "--out", other),
        *("--network", "autoencoder:width=4,latent=4", "--objective", "reconstruction"),
        *("--epochs", "1", "--optimizer", "adam", "--lr", "0.01"),
    )
    assert "accuracy" not in capsys.readouterr().err
    name = f"vmdls:autoencoder={other}"
    call("fit", run, "--detector", name)
    model = Run.load(run).model_folder(name)
    call("predict", model, pictures)
    before = capsys.readouterr().out
    shutil.rmtree(other)
    call("predict", model, pictures)
    assert capsys.readouterr().out == before
    shutil.rmtree(model)


def test_predict_moves_the_threshold_without_data(run, pictures, tmp_path, capsys):
    out = tmp_path / "out.csv"
    given = ("predict", run, pictures, "--detector", "energy", "--out", out)
    call(*given, "--accept", "0.8", "--batch-size", "2", "--workers", "2")
    assert "At least 80.0% of future known samples" in capsys.readouterr().err
    assert len(read(out)) == 5
    call(*given, "--threshold", "-1e9")
    assert "set by hand and accepts 0.0% of the" in capsys.readouterr().err
    assert {record["label"] for record in read(out)} == {"unknown"}
    assert "give one of them" in fails(capsys, *given, "--accept", "0.8", "--threshold", "1")
    assert "needs at least 9999" in fails(capsys, *given, "--accept", "0.9999")
