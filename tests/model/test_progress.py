"""Whoever waits for many answers sees how many are done, how fast, and the time left."""

import re

from command_line import call


def said(capsys) -> str:
    """What was written to a terminal, without its control characters."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)


def test_predict_shows_count_rate_and_time_left_on_a_terminal(
    run, pictures, tmp_path, monkeypatch, capsys
):
    asked = ("predict", run, pictures, "--detector", "energy", "--batch-size", "1", "--out")
    call(*asked, tmp_path / "plain.csv")
    assert "images/s" not in said(capsys)
    monkeypatch.setenv("FORCE_COLOR", "1")  # By which rich takes any stream for a terminal.
    monkeypatch.setenv("COLUMNS", "100")
    call(*asked, tmp_path / "shown.csv")
    shown = said(capsys)
    assert "5/5" in shown
    assert re.search(r"\d+ images/s", shown)
    assert re.search(r"\d:\d\d:\d\d", shown)
    assert (tmp_path / "shown.csv").read_text() == (tmp_path / "plain.csv").read_text()
