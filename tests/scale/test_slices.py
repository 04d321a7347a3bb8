"""Slices of images, and what a worker makes of them, without a cluster."""

import os
import sys

import pytest
from command_line import fails
from lake import COUNT, same

from openset.model.open_set import OpenSet
from openset.scale.parts import Parts
from openset.scale.scorer import Question, Scorer
from openset.scale.slices import File, Slice, find_slices


@pytest.fixture(scope="module")
def scorer(run):
    return Scorer(Question(OpenSet.load(run / "models" / "energy")), "cpu")


@pytest.mark.parametrize("kind", ["files", "parquet", "tar"])
@pytest.mark.parametrize("url", [False, True])
def test_every_picture_is_answered_as_by_the_local_path(scorer, lake, local, kind, url):
    place = f"file://{lake}/{kind}" if url else str(lake / kind)
    rows = [row for piece in find_slices([place]) for row in scorer.score(piece)[1].to_pylist()]
    same(rows, local, paths=kind == "files" and not url)
    assert len({row["path"] for row in rows}) == COUNT


def test_what_cannot_be_read_is_named_and_costs_no_other(scorer, lake, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    (tmp_path / "cut.tar").write_bytes((lake / "tar" / "0.tar").read_bytes()[:3000])
    gone = File(str(tmp_path / "gone.png"), "gone.png", "")
    (two,) = find_slices([str(tmp_path / "broken.png"), str(lake / "files" / "001.png")])
    slices = [Slice((gone, *two.files)), *find_slices([str(tmp_path / "cut.tar")])]
    parts = Parts(tmp_path / "out", slices)
    with parts.begun({"model": "a"}):
        for name, piece in parts.left():
            parts.write(name, scorer.score(piece)[1])
        assert parts.left() == []
    count, skipped = parts.told()
    assert count == 1 + 1  # The shard is cut within its second image.
    for name in ("gone.png", "broken.png", "cut.tar to its end"):
        assert sum(name in said for said in skipped) == 1
    assert len(skipped) == 3
    with pytest.raises(ValueError, match="name a new folder"), parts.begun({"model": "b"}):
        pass


def test_parquet_without_images_is_refused(tmp_path):
    import pyarrow as arrow
    from pyarrow import parquet

    parquet.write_table(arrow.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no column of images"):
        find_slices([str(tmp_path / "x.parquet")])
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="as Parquet"):
        find_slices([str(tmp_path / "x.parquet")])


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
