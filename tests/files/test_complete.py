"""A folder is complete or absent, whatever happens while it is written."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openset.files import (
    complete_file,
    complete_folder,
    locked,
    recovered,
    recovered_folders,
    save_tensors,
)


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
    from openset.files import complete as folders

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


KILLED_BETWEEN_THE_RENAMES = """
import os, sys
from openset.files import complete_folder

def dying(source, target, rename=os.rename):
    if str(source).endswith(".partial"):
        os._exit(9)
    rename(source, target)

os.rename = dying
with complete_folder(sys.argv[1], owns=["*.csv"]) as partial:
    (partial / "results.csv").write_text("new")
"""


@pytest.mark.parametrize("look", [recovered, lambda path: recovered_folders(path.parent)[0]])
def test_a_kill_between_the_renames_leaves_the_old(older, look):
    done = subprocess.run([sys.executable, "-c", KILLED_BETWEEN_THE_RENAMES, str(older)])
    assert done.returncode == 9
    assert not older.exists()
    assert look(older) == older
    assert contents(older) == {"results.csv": "old"}
    assert recovered_folders(older.parent) == [older]
    with complete_folder(older, owns=["*.csv"]) as partial:
        (partial / "results.csv").write_text("new")
    assert list(older.parent.iterdir()) == [older]


def test_the_next_write_sweeps_what_a_kill_left(older):
    for kind, make in (("partial", complete_folder), ("file", complete_file)):
        target = older.with_name(kind)
        left = older.with_name(f".{kind}.partial")
        left.mkdir()
        (left / "half").touch()
        older.with_name(f".{kind}.lock").touch()
        with make(target) as partial:
            assert not (partial / "half").exists()
    assert sorted(path.name for path in older.parent.iterdir()) == ["file", "partial", "run"]


def test_what_a_kill_left_makes_no_folder_foreign(older):
    for name in (".report.html.partial", ".report.html.lock", ".a.old"):
        (older / name).touch()
    with complete_folder(older, owns=["results.csv"]):
        pass
    assert contents(older) == {}


@pytest.mark.parametrize("make", [complete_file, complete_folder])
def test_one_process_at_a_time_writes_a_place(tmp_path, make):
    with (
        make(tmp_path / "a"),
        pytest.raises(ValueError, match=r"another process is writing .*a; wait for its end"),
        make(tmp_path / "a"),
    ):
        raise AssertionError("the work must not begin")


def test_a_lock_is_free_again_after_an_error(tmp_path):
    lock = tmp_path / ".lock"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), locked(lock, "busy"):
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_every_file_gets_the_mode_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with complete_folder(tmp_path / "model") as partial:
            save_tensors({"x": torch.zeros(2)}, partial / "model.safetensors")
            (partial / "model.json").touch()
        with complete_file(tmp_path / "x.safetensors") as partial:
            save_tensors({"x": torch.zeros(2)}, partial)
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}


def test_tensors_of_any_layout_are_saved(tmp_path):
    x = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_tensors({"a": x, "b": x, "t": x[0, 0].T}, tmp_path / "x.safetensors", {"k": "v"})
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded["a"].equal(x)
    assert loaded["b"].equal(x)
    assert loaded["t"].equal(x[0, 0].T)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_safetensors_cannot_hold_is_named(tmp_path):
    for odd in (torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8), (1, 2)):
        with pytest.raises(ValueError, match=r"fc\._packed is quantised"):
            save_tensors({"fc._packed": odd}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows limits no file's size")
def test_a_file_that_finds_no_room_is_named(tmp_path):
    import resource

    def write(folder):
        with complete_folder(folder) as partial:
            save_tensors({"x": torch.zeros(10**6)}, partial / "x.safetensors")

    def write_plainly(folder):
        with complete_folder(folder) as partial, (partial / "x").open("wb") as file:
            file.write(bytes(10**6))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1]))
    try:
        for work in (write, write_plainly):
            with pytest.raises(OSError, match="File too large") as failure:
                work(tmp_path / "full")
            assert "full" in failure.value.filename
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_the_folder_one_stands_in_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recovered(".") == Path(".")
