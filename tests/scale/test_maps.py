"""`openset predict --cluster` of a model that labels pixels: the local path's rows and maps."""

import io
import json
import os
import signal

import numpy as np
import pytest
import torch
from command_line import call, fails
from lake import COUNT, gathered, same
from PIL import Image

from openset import OpenSet, Tap
from openset.data import Adapter
from openset.detectors import Energy
from openset.model.records import read
from openset.networks import ladder_small
from openset.scale import cluster
from openset.scale.parts import Parts
from openset.scale.predict import predict_cluster
from openset.scale.scorer import Question, Scorer
from openset.scale.slices import find_slices, named

ENDINGS = ("labels.png", "overlay.png", "score.npy", "score.png")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small network of pixels, and a threshold that some pixels are above."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ladder_small(classes=3, channels=1, width=8)
    model = OpenSet(Tap(network), Energy(), classes=[*"abc"], adapter=Adapter((32, 32), 1))
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    model.calibrate([(images, torch.zeros(4, 32, 32).long())], accept=0.5)
    folder = tmp_path_factory.mktemp("pixels") / "model"
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def maps(model, lake, tmp_path_factory):
    """The folder of maps of the local path."""
    out = tmp_path_factory.mktemp("local") / "maps"
    call("predict", model, lake / "files", "--out", out)
    shares = [row["unknown"] for row in read(out / "index.csv")]
    assert 0.1 < np.mean(shares) < 0.9
    return out


def same_maps(folder, name, other, its):
    """Whether an image has the same maps in both: labels exactly, scores to rounding."""
    labels, others = (
        np.array(Image.open(f / f"{n}.labels.png")) for f, n in ((folder, name), (other, its))
    )
    assert np.array_equal(labels, others)
    score, others = (np.load(f / f"{n}.score.npy") for f, n in ((folder, name), (other, its)))
    assert score.dtype == others.dtype
    np.testing.assert_allclose(score, others, rtol=1e-5, atol=1e-5)
    for ending in ("score.png", "overlay.png"):
        picture, others = (
            np.array(Image.open(io.BytesIO((f / f"{n}.{ending}").read_bytes())).convert("RGB"))
            for f, n in ((folder, name), (other, its))
        )
        assert np.abs(picture.astype(int) - others).max() <= 3, ending


def check(out, maps, paths=True):
    """Whether a folder holds the rows and maps of the local path, each once and no others."""
    rows, told = gathered(out)
    expected = read(maps / "index.csv")
    for row, other in zip(rows, expected, strict=True):
        same_maps(out / "_maps", row["name"], maps, other["name"])
    named_so = [{**row, "name": its["name"]} for row, its in zip(rows, expected, strict=True)]
    same(rows if paths else named_so, expected, paths)
    found = sorted(file.name for file in (out / "_maps").iterdir())
    names = [f"{row['name']}.{ending}" for row in rows for ending in ENDINGS]
    assert found == sorted([*names, "classes.json"])
    assert (out / "_maps" / "classes.json").read_text() == (maps / "classes.json").read_text()
    return told


@pytest.mark.parametrize("kind", ["files", "parquet", "tar"])
def test_rows_and_maps_are_those_of_the_local_path(
    two_cores, model, lake, maps, tmp_path, kind, monkeypatch
):
    monkeypatch.setattr("openset.scale.predict.LABELLED", 20)
    call("predict", model, lake / kind, "--cluster", "--out", tmp_path / "out")
    told = check(tmp_path / "out", maps, paths=kind == "files")
    assert len(told["parts"]) == {"files": 3, "parquet": 3, "tar": 6}[kind]


def test_files_of_one_name_keep_the_local_paths_names(two_cores, model, lake, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "A.png").write_bytes((lake / "files" / "001.png").read_bytes())
    places = (tmp_path / "x", f"{tmp_path}/y", lake / "files" / "000.png")
    call("predict", model, *places, "--out", tmp_path / "local", "--threshold", "0")
    call("predict", model, *places, "--out", tmp_path / "out", "--threshold", "0", "--cluster")
    check(tmp_path / "out", tmp_path / "local")
    assert {row["name"] for row in gathered(tmp_path / "out")[0]} == {"A-1", "A-2", "000"}


def test_a_url_gives_the_same(two_cores, model, lake, maps, tmp_path):
    call("predict", model, f"file://{lake}/files", "--cluster", "--out", tmp_path / "out")
    check(tmp_path / "out", maps, paths=False)
    assert gathered(tmp_path / "out")[0][0]["path"] == f"file://{lake}/files/000.png"


def test_a_broken_image_is_named_and_has_no_maps(two_cores, model, lake, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no image")
    (tmp_path / "in" / "b.png").write_bytes((lake / "files" / "001.png").read_bytes())
    command = ("predict", model, tmp_path / "in")
    said = fails(capsys, *command, "--cluster", "--out", tmp_path / "out")
    assert "1 of 2 files have no answer" in said
    assert "a.png" in said
    call(*command, "--cluster", "--out", tmp_path / "out", "--skip-bad")
    assert "a.png" in capsys.readouterr().err
    call(*command, "--out", tmp_path / "local", "--skip-bad")
    told = check(tmp_path / "out", tmp_path / "local")
    assert len(told["skipped"]) == told["rows"] == 1


def test_a_killed_worker_costs_no_row_and_no_map(
    two_cores, model, lake, maps, tmp_path, monkeypatch
):
    """It dies when some maps of its slice are written already."""
    killed = tmp_path / "killed"

    class Dying(Scorer):
        def score(self, piece):
            self.doomed = piece.files[0].name.endswith("3.tar") and not killed.exists()
            return super().score(piece)

        def more(self):
            given = super().more()
            if self.doomed and given[1] is not None:
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return given

    monkeypatch.setattr(cluster, "Scorer", Dying)
    call("predict", model, lake / "tar", "--cluster", "--out", tmp_path / "out")
    assert killed.exists()
    check(tmp_path / "out", maps, paths=False)


def test_the_same_command_goes_on_and_scores_nothing_twice(
    two_cores, model, lake, maps, tmp_path, monkeypatch, capsys
):
    out, scored = tmp_path / "out", tmp_path / "scored"
    monkeypatch.setattr("openset.scale.predict.LABELLED", 10)
    command = ("predict", model, lake / "files", "--cluster", "--out", out)

    class Dying(Scorer):
        def score(self, piece):
            if piece.files[0].name.endswith("040.png"):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().score(piece)

    class Counting(Scorer):
        def score(self, piece):
            with scored.open("a") as file:
                file.write(piece.files[0].name + "\n")
            return super().score(piece)

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "Scorer", Dying)
        assert "040.png" in fails(capsys, *command)
    assert json.loads((out / "_manifest.json").read_text())["complete"] is False
    done = list(out.glob("part-*"))
    assert 0 < len(done) < 6
    with_maps = [file for part in done for row in read(part) for file in its_maps(out, row)]
    times = {file: file.stat().st_mtime_ns for file in [*done, *with_maps]}
    monkeypatch.setattr(cluster, "Scorer", Counting)
    call(*command)
    check(out, maps)
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert len(scored.read_text().split()) == 6 - len(done)
    call(*command)
    assert len(scored.read_text().split()) == 6 - len(done)
    assert f"{COUNT} images" in capsys.readouterr().err


def its_maps(out, row):
    return [out / "_maps" / f"{row['name']}.{ending}" for ending in ENDINGS]


def test_a_part_is_there_only_after_all_of_its_maps(model, lake, tmp_path, monkeypatch):
    """The disk is full at some map; without a cluster."""
    scorer = Scorer(Question(OpenSet.load(model)), "cpu")

    def asked(question, parts, *_):
        for name, piece in parts:
            given = scorer.score(piece)
            while given[1] is None:
                yield name, given
                given = scorer.more()
            yield name, given

    write = Parts.write_maps

    def full(self, maps):
        for name, content in maps.items():
            if name == "013.score.npy":
                raise OSError(28, "No space left on device")
            write(self, {name: content})

    monkeypatch.setattr("openset.scale.predict.score", asked)
    monkeypatch.setattr("openset.scale.predict.LABELLED", 6)
    places, out = [str(lake / "files")], tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write_maps", full)
        with pytest.raises(OSError, match="No space"):
            predict_cluster(OpenSet.load(model), places, out)
    for part in out.glob("part-*"):
        assert all(file.exists() for row in read(part) for file in its_maps(out, row))
    assert len(list(out.glob("part-*"))) == 2
    assert (out / "_maps" / "012.overlay.png").exists()
    predict_cluster(OpenSet.load(model), places, out)
    rows, _ = gathered(out)
    assert all(file.exists() for row in rows for file in its_maps(out, row))
    assert len({row["path"] for row in rows}) == COUNT


def test_no_map_takes_the_place_of_another(lake):
    mixed = [str(lake / "files"), str(lake / "tar"), str(lake / "tar" / "0.tar")]
    slices = named(find_slices(mixed, 7))
    names = [piece.called(i) for piece in slices for i in range(100 if not piece.names else 0)]
    assert len(set(names)) == len(names) == 100 * len(slices)
    alone = named(find_slices(mixed[:1], 7))
    names = [piece.called(i) for piece in alone for i in range(len(piece.files))]
    assert names == [f"{i:03}" for i in range(COUNT)]
