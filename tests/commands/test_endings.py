"""The command line ends, whatever happens, in one sentence and a code, nothing half-written."""

import io
import os
import signal
import subprocess
import sys

import pytest
from command_line import call, fails
from rich.table import Table

from openset.commands.screen import Screen, say, show
from openset.runs.run import Run


def ends(*arguments):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    return stop.value.code


def test_a_bug_is_one_sentence_and_shows_its_place_on_demand(monkeypatch, capsys):
    def broken(what):
        raise KeyError(what)

    monkeypatch.setattr("openset.commands.list.listing", broken)
    assert ends("list", "detectors") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: this is a bug in openset: KeyError: 'detectors'; set ")
    assert said.count("\n") == 1
    monkeypatch.setenv("OPENSET_TRACEBACK", "1")
    with pytest.raises(KeyError):
        call("list", "detectors")


def test_sigterm_ends_as_ctrl_c_does(tmp_path, capsys, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def stopped(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("openset.runs.evaluate.evaluate_run", stopped)
    assert ends("evaluate", tmp_path / "run", "--out", tmp_path / "out") == 143
    assert capsys.readouterr().err == "stopped; nothing half-written is left behind\n"
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_goes_ends_it_quietly(run, pictures):
    model = str(run / "models" / "energy")
    reader, writer = os.pipe()
    os.close(reader)
    predict = [sys.executable, "-m", "openset", "predict", model, str(pictures)]
    done = subprocess.run(predict, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_table_whose_reader_goes_is_a_broken_pipe():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Screen(file=Gone()).print("a")


def test_names_obey_no_terminal_and_no_markup(capsys):
    say("skipped: \x1b]0;title\x07[bold]a[/b].png")
    assert capsys.readouterr().err == "skipped: \\x1b]0;title\\x07[bold]a[/b].png\n"
    table = Table("na\x1bme", title="[/x]")
    table.add_row("\x1b[31m[/red]:smile:")
    show(table)
    said = capsys.readouterr().out
    assert "\\x1b[31m[/red]:smile:" in said
    assert "na\\x1bme" in said
    assert "\x1b[31m" not in said


def test_an_error_spells_out_a_name(tmp_path, capsys):
    said = fails(capsys, "predict", tmp_path / "a\x1b[31mb", "x.png")
    assert "a\\x1b[31mb" in said


def test_letters_that_the_screen_lacks_are_spelled_out(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr("openset.commands.list.known_names", lambda: ["猫"])
    call("list", "data")
    assert b"\\u732b" in raw.getvalue()


def test_train_does_without_bad_images_and_says_so(pictures, tmp_path, capsys):
    data = tmp_path / "data"
    for split, name in (("train", "zero"), ("train", "one"), ("test", "zero"), ("test", "one")):
        folder = data / split / name
        folder.mkdir(parents=True)
        for i in range(4):
            (folder / f"{i}.png").write_bytes((pictures / f"{i}.png").read_bytes())
    (data / "train" / "one" / "bad.png").write_bytes(b"no image")
    given = ("train", data, "--epochs", 1, "--valid", 0.5, "--out", tmp_path / "run")
    settings = ("--network", "cnn:widths=4+4,hidden=4", "--batch-size", 2)
    said = fails(capsys, *given, *settings)
    assert "bad.png" in said
    assert "--skip-bad" in said
    call(*given, *settings, "--skip-bad")
    found = Run.load(tmp_path / "run").load_data()
    assert len(found.train) + len(found.valid) == 8
    (note,) = (note for note in found.notes if "left out" in note)
    assert note.startswith("Unreadable images left out: 1 (cannot read ")
    assert "bad.png" in note


@pytest.mark.skipif(os.name == "nt", reason="Windows limits no file's size")
@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ("fit {run} --detector mahalanobis", "TMPDIR"),
        ("evaluate {run} --detector energy --out {out}", "{out}"),
        ("predict {run} {pictures} --detector energy --out {out}.csv", "{out}.csv"),
    ],
)
def test_a_full_disk_is_one_sentence_that_names_the_place(
    run, pictures, tmp_path, capsys, arguments, place, monkeypatch
):
    import resource

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    places = {"run": run, "out": tmp_path / "out", "pictures": pictures}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        said = fails(capsys, *arguments.format(**places).split())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large; make room there, or name another place" in said
    assert place.format(**places) in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "temporary"]
    assert not list((tmp_path / "temporary").iterdir())
    assert not [path for path in (run / "models").iterdir() if path.name.startswith(".")]
