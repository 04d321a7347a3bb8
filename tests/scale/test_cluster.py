"""`openset predict --cluster` gives the rows of the local path, whatever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from command_line import call, fails
from PIL import Image
from sklearn.datasets import load_digits

from openset.model.records import read
from openset.scale import cluster
from openset.scale.scorer import Scorer
from openset.scale.slices import find_slices

ray = pytest.importorskip("ray", reason="needs the extra `cluster`")
parquet = pytest.importorskip("pyarrow.parquet")

COUNT = 60


@pytest.fixture(scope="module")
def two_cores():
    """A cluster of two cores on this machine."""
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """The same pictures as files, as Parquet of several files and groups, and as tar shards."""
    root = tmp_path_factory.mktemp("lake")
    files = []
    for i, image in enumerate(load_digits().images[:COUNT]):
        file = root / "files" / f"{i:03}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.uint8(image * 15.9)).save(file)
        files.append(file)
    for kind in ("parquet", "tar"):
        (root / kind).mkdir()
    write_parquet(root / "parquet" / "a.parquet", files[:40], 7)
    write_parquet(root / "parquet" / "b.parquet", files[40:], 20)
    for k in range(6):
        with tarfile.open(root / "tar" / f"{k}.tar", "w") as shard:
            for file in files[10 * k : 10 * k + 10]:
                shard.add(file, file.name)
    return root


def write_parquet(place, files, rows):
    import pyarrow as arrow

    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    parquet.write_table(arrow.table({"image": cells}), place, row_group_size=rows)


def gathered(out):
    """The rows of all parts in their order, and what the manifest says."""
    told = json.loads((out / "_manifest.json").read_text())
    assert told["complete"] is True
    rows = [row for name in told["parts"] for row in read(out / name)]
    assert told["rows"] == len(rows) == parquet.read_table(out).num_rows
    return rows, told


def same(rows, others, paths=True):
    """Whether rows are equal, numbers to rounding; by default their paths too."""
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            if isinstance(value, str):
                assert value == other[key] or (key == "path" and not paths), key
            else:
                assert value == pytest.approx(other[key], rel=1e-5, abs=1e-6), key


@pytest.fixture(scope="module")
def local(run, lake, tmp_path_factory):
    """The rows of the local path."""
    out = tmp_path_factory.mktemp("local") / "answers.parquet"
    call("predict", run / "models" / "energy", lake / "files", "--out", out)
    return read(out)


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


def test_slices_follow_their_files(lake, tmp_path):
    one = find_slices([str(lake / "files")])
    assert [len(piece.files) for piece in one] == [COUNT]
    digest = one[0].digest
    assert find_slices([str(lake / "files")])[0].digest == digest
    file = lake / "files" / "000.png"
    before = file.stat()
    os.utime(file, (1, 1))
    assert find_slices([str(lake / "files")])[0].digest != digest
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    mixed = find_slices([str(file), str(lake / "parquet"), str(lake / "tar"), str(file)])
    kinds = [piece.files[0].kind for piece in mixed]
    assert kinds == ["images", *["parquet"] * 2, *["tar"] * 6, "images"]


def test_without_ray_it_says_what_to_install(run, lake, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ("predict", run / "models" / "energy", lake / "files", "--cluster")
    assert "openset[cluster]" in fails(capsys, *command, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nowhere", "no image at nowhere"),
        ("nosuch://bucket/x", "cannot read nosuch://bucket/x"),
        ("zip://a.png::file:///x.zip", "chains file systems"),
        ("file:///nowhere-at-all", "no image at"),
    ],
)
def test_places_without_images_are_refused(place, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        find_slices([place])
