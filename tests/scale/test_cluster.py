"""`openset predict --cluster` gives the rows of the local path, whatever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from command_line import call, fails
from lake import COUNT, gathered, same

from openset.model.records import read
from openset.scale import cluster
from openset.scale.scorer import Scorer

ray = pytest.importorskip("ray", reason="needs the extra `cluster`")
parquet = pytest.importorskip("pyarrow.parquet")


def on_cluster(run, *more):
    call("predict", run / "models" / "energy", *more, "--cluster")


@pytest.mark.parametrize("kind", ["files", "parquet", "tar"])
def test_rows_are_those_of_the_local_path(two_cores, run, lake, local, tmp_path, kind, monkeypatch):
    monkeypatch.setattr("openset.scale.slices.SLICE", 8)
    on_cluster(run, lake / kind, "--out", tmp_path / "out")
    rows, told = gathered(tmp_path / "out")
    same(rows, local, paths=kind == "files")
    assert len(told["parts"]) == {"files": 8, "parquet": 4, "tar": 6}[kind]
    assert len({row["path"] for row in rows}) == COUNT


def test_a_url_and_options_give_the_same(two_cores, run, lake, tmp_path):
    options = ("--accept", "0.8", "--probabilities")
    out = tmp_path / "local.parquet"
    call("predict", run / "models" / "energy", lake / "files", "--out", out, *options)
    on_cluster(run, f"file://{lake}/files", "--out", tmp_path / "out", *options)
    rows, _ = gathered(tmp_path / "out")
    same(rows, read(out), paths=False)
    assert rows[0]["path"] == f"file://{lake}/files/000.png"


def test_broken_images_are_named(two_cores, run, lake, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no image")
    (tmp_path / "in" / "b.png").write_bytes((lake / "files" / "001.png").read_bytes())
    command = ("predict", run / "models" / "energy", tmp_path / "in", "--cluster")
    said = fails(capsys, *command, "--out", tmp_path / "out")
    assert "1 of 2 files have no answer" in said
    assert "a.png" in said
    call(*command, "--out", tmp_path / "out", "--skip-bad")
    assert "a.png" in capsys.readouterr().err
    rows, told = gathered(tmp_path / "out")
    assert [row["path"] for row in rows] == [str(tmp_path / "in" / "b.png")]
    assert len(told["skipped"]) == 1


def test_a_part_without_any_answer_has_the_same_columns(two_cores, run, lake, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    on_cluster(run, tmp_path / "in", "--out", tmp_path / "out", "--skip-bad", "--probabilities")
    rows, told = gathered(tmp_path / "out")
    assert (rows, len(told["skipped"])) == ([], 1)
    assert "p_0" in parquet.read_table(tmp_path / "out").column_names


def test_a_shard_that_ends_early_is_named(two_cores, run, lake, tmp_path, capsys):
    whole = (lake / "tar" / "0.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:3000])
    on_cluster(run, tmp_path / "cut.tar", "--out", tmp_path / "out", "--skip-bad")
    assert "cut.tar to its end" in capsys.readouterr().err
    rows, _ = gathered(tmp_path / "out")
    assert 0 < len(rows) < 10


def test_a_killed_worker_costs_no_row(two_cores, run, lake, local, tmp_path, monkeypatch):
    killed = tmp_path / "killed"

    class Dying(Scorer):
        def score(self, piece):
            if piece.files[0].name.endswith("3.tar") and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().score(piece)

    monkeypatch.setattr(cluster, "Scorer", Dying)
    on_cluster(run, lake / "tar", "--out", tmp_path / "out")
    assert killed.exists()
    same(gathered(tmp_path / "out")[0], local, paths=False)


def test_what_always_kills_its_worker_ends_in_a_sentence(
    two_cores, run, lake, local, tmp_path, monkeypatch, capsys
):
    class Dying(Scorer):
        def score(self, piece):
            if piece.files[0].name.endswith("5.tar"):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().score(piece)

    command = ("predict", run / "models" / "energy", lake / "tar", "--cluster")
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "Scorer", Dying)
        said = fails(capsys, *command, "--out", tmp_path / "out")
    assert "5.tar" in said
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["complete"] is False
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("part-*")}
    call(*command, "--out", tmp_path / "out")
    same(gathered(tmp_path / "out")[0], local, paths=False)
    assert {file: file.stat().st_mtime_ns for file in done} == done


def test_a_killed_driver_goes_on_where_it_was(run, lake, tmp_path):
    """With a cluster of its own, which dies with it."""
    many, out = tmp_path / "many", tmp_path / "out"
    many.mkdir()
    shard = (lake / "tar" / "0.tar").read_bytes()
    for k in range(200):
        (many / f"{k:03}.tar").write_bytes(shard)
    command = [
        sys.executable,
        "-m",
        "openset",
        "predict",
        str(run / "models" / "energy"),
        str(many),
    ]
    command += ["--cluster", "--out", str(out)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not list(out.glob("part-*")) and first.poll() is None:
            time.sleep(0.002)
    finally:
        first.kill()
        first.wait()
    done = {file: file.stat().st_mtime_ns for file in out.glob("part-*")}
    assert 0 < len(done) < 200
    assert not json.loads((out / "_manifest.json").read_text())["complete"]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert {file: file.stat().st_mtime_ns for file in done} == done
    rows, _ = gathered(out)
    assert len({row["path"] for row in rows}) == len(rows) == 2000
    third = subprocess.run(command, capture_output=True, text=True)
    assert "2000 images" in third.stderr


def test_the_cluster_of_ray_address_answers(two_cores, run, lake, local, tmp_path):
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "openset", "predict", str(run / "models" / "energy")]
    command += [str(lake / "parquet"), "--cluster", "--out", str(tmp_path / "out")]
    jobs = len(ray._private.state.jobs())
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    assert len(ray._private.state.jobs()) == jobs + 1
    same(gathered(tmp_path / "out")[0], local, paths=False)


def test_another_question_is_refused(two_cores, run, lake, tmp_path, capsys):
    out = ("--cluster", "--out", tmp_path / "out")
    call("predict", run / "models" / "energy", lake / "tar" / "0.tar", *out)
    for model, *other in (
        ("energy", lake / "tar" / "1.tar"),
        ("energy", lake / "tar" / "0.tar", "--threshold", "1"),
        ("gemos", lake / "tar" / "0.tar"),
    ):
        (model,) = (run / "models").glob(f"{model}*")
        assert "name a new folder" in fails(capsys, "predict", model, *other, *out)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "--out FOLDER"),
        (("--out", "s3://bucket/out"), "answers lie on this machine"),
        (("--out", "out", "--fdr", "0.1"), "--fdr"),
        (("--out", "out", "--report", "page.html"), "--report"),
        (("--out", "out", "--device", "cuda:1"), "device is cuda:1"),
        (("--out", "out", "--device", "cuda"), "has a GPU"),
    ],
)
def test_what_a_cluster_does_not_do_is_refused(
    two_cores, run, lake, tmp_path, monkeypatch, capsys, more, said
):
    monkeypatch.chdir(tmp_path)
    model = run / "models" / "energy"
    assert said in fails(capsys, "predict", model, lake / "files", "--cluster", *more)
    assert not list(tmp_path.glob("out/part-*"))
