"""A folder is complete or absent, whatever happens while it is written."""

import errno
import os

import pytest

from openset.files import complete_file, complete_folder


@pytest.fixture
def older(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "results.csv").write_text("old")
    return folder


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_folder_appears_only_at_the_end(tmp_path):
    target = tmp_path / "new" / "run"
    with complete_folder(target) as partial:
        (partial / "a.txt").write_text("a")
        assert not target.exists()
    assert contents(target) == {"a.txt": "a"}
    assert [path.name for path in target.parent.iterdir()] == ["run"]


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=repr
)
def test_a_failure_leaves_nothing_and_harms_nothing(older, failure):
    def work(target):
        with complete_folder(target, owns=["*.csv"]) as partial:
            (partial / "results.csv").write_text("half")
            raise failure

    for target in (older, older.with_name("other")):
        with pytest.raises(type(failure)):
            work(target)
    assert contents(older) == {"results.csv": "old"}
    assert list(older.parent.iterdir()) == [older]


def test_a_failing_rename_brings_the_older_folder_back(older, monkeypatch):
    from openset import files as folders

    rename = folders.os.rename

    def broken(source, target):
        if str(source).endswith(".partial") and target == older and not older.exists():
            monkeypatch.undo()
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(folders.os, "rename", broken)
    with pytest.raises(OSError, match="Input/output"), complete_folder(older, owns=["*.csv"]):
        pass
    assert contents(older) == {"results.csv": "old"}


def test_an_older_folder_is_replaced_whole(older):
    with complete_folder(older, owns=["results.csv"]) as partial:
        (partial / "results.json").write_text("new")
    assert contents(older) == {"results.json": "new"}
    assert list(older.parent.iterdir()) == [older]


def test_what_else_stands_there_is_refused_before_and_after_the_work(older, tmp_path):
    (older / "thesis.tex").write_text("precious")
    with (
        pytest.raises(ValueError, match=r"already holds thesis\.tex; name a new or an empty"),
        complete_folder(older, owns=["results.*"]),
    ):
        raise AssertionError("the work must not begin")
    late = tmp_path / "late"

    def work():
        with complete_folder(late):
            late.mkdir()
            (late / "thesis.tex").write_text("precious")

    with pytest.raises(ValueError, match="already holds"):
        work()
    assert contents(late) == {"thesis.tex": "precious"}
    with pytest.raises(ValueError, match="is a file"), complete_folder(late / "thesis.tex"):
        pass


def test_an_empty_folder_is_taken(tmp_path):
    with complete_folder(tmp_path) as partial:
        (partial / "a").write_text("a")
    assert contents(tmp_path) == {"a": "a"}


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")

    def work():
        with complete_file(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert contents(tmp_path) == {"report.html": "old"}
    with complete_file(path) as partial:
        partial.write_text("new")
    assert contents(tmp_path) == {"report.html": "new"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content(tmp_path, monkeypatch, call):
    file = tmp_path / "a.txt"

    def write(content):
        with complete_file(file) as partial:
            partial.write_text(content)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    write("old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write("new")
    assert contents(tmp_path) == {"a.txt": "old"}


def test_a_file_cannot_take_a_folders_place_nor_lie_in_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match="folder is a folder; name a file"),
        complete_file(tmp_path / "folder"),
    ):
        pass
    for made in (complete_file, complete_folder):
        with pytest.raises(ValueError, match="file is a file, so"), made(tmp_path / "file" / "x"):
            pass
