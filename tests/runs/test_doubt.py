"""Promises that do not hold, and networks that learned nothing, are said wherever one looks."""

import json

import pytest
from command_line import call, fails

from openset.evaluation.results import Results
from openset.runs.run import Run
from openset.runs.train import collapse
from openset.scoring.threshold import SEEN

NETWORK = ("--network", "cnn:widths=8+16,hidden=32", "--known-classes", "0-5")


@pytest.fixture
def foreign(run, tmp_path):
    """A run around the weights of another."""
    weights = ("--weights", run / "network.safetensors", "--epochs", "0")
    call("train", "digits", *NETWORK, *weights, "--out", tmp_path / "foreign")
    return tmp_path / "foreign"


def threshold(folder):
    return json.loads((folder / "models" / "energy" / "model.json").read_text())["threshold"]


def test_weights_of_elsewhere_promise_nothing(foreign, tmp_path, capsys):
    call("fit", foreign, "--detector", "energy", "--accept", "0.9")
    said = " ".join(capsys.readouterr().err.split())
    assert f"No guarantee holds: {SEEN}" in said
    assert "--held-out DATA" in said
    assert threshold(foreign)["doubt"] == SEEN
    assert threshold(foreign)["guarantee"].startswith("No guarantee holds")
    call("evaluate", foreign, "--out", tmp_path / "results")
    (record,) = Results.load(tmp_path / "results").thresholds.values()
    assert record["doubt"] == SEEN
    page = (tmp_path / "results" / "report.html").read_text()
    assert f'"doubt":"{SEEN}"' in page  # tests/reporting/test_browser.py sees the warning.
    assert "At least 90" not in page


def test_images_that_the_network_has_not_seen_restore_the_promise(foreign, tmp_path, capsys):
    folder = tmp_path / "other"
    save_digits(folder, range(6))
    call("fit", foreign, "--detector", "energy", "--accept", "0.9", "--held-out", folder)
    assert "At least 90.0%" in capsys.readouterr().err
    assert threshold(foreign)["doubt"] is None
    assert threshold(foreign)["counts"] == [60]
    call("fit", foreign, "--detector", "energy", "--accept", "0.9", "--held-out", "valid")
    assert threshold(foreign)["doubt"] is None
    capsys.readouterr()
    said = fails(capsys, "fit", foreign, "--detector", "energy", "--held-out", "digits")
    assert "digits is what this run was trained and is tested on" in said
    save_digits(tmp_path / "few", range(4))
    said = fails(capsys, "fit", foreign, "--detector", "energy", "--held-out", tmp_path / "few")
    assert "cannot stand for the known classes 0, 1, 2, 3, 4, 5: its classes are 0, 1, 2, 3" in said


def save_digits(folder, classes):
    """Ten digits of each class, as files in class folders."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for c in classes:
        (folder / str(c)).mkdir(parents=True)
        for i, image in enumerate(bunch.images[bunch.target == c][:10]):
            Image.fromarray((image * 15.9).astype("uint8")).save(folder / str(c) / f"{i}.png")


def test_a_tuned_model_of_foreign_weights_promises_nothing(foreign):
    call("tune", foreign, "--detector", "odin", "--grid", "epsilon=0+0.01", "--accept", "0.8")
    for file in (foreign / "models").glob("*/model.json"):
        assert json.loads(file.read_text())["threshold"]["doubt"] == SEEN


def test_a_run_of_its_own_training_is_not_doubted(run):
    assert Run.load(run).doubt is None
    assert threshold(run)["doubt"] is None


def test_a_network_that_learned_nothing_is_said(tmp_path, capsys):
    how = ("--epochs", "1", "--lr", "0", "--out", tmp_path / "run")
    call("train", "digits", *NETWORK, *how)
    assert "warning: the network has learned nothing" in " ".join(capsys.readouterr().err.split())
    assert Run.load(tmp_path / "run").warning
    call("evaluate", tmp_path / "run", "--detector", "energy", "--out", tmp_path / "results")
    assert "the network has learned nothing" in (tmp_path / "results" / "report.html").read_text()


def test_chance_is_told_from_learning():
    import torch

    test = [(torch.zeros(100, 1, 2, 2), torch.arange(100) % 4)]
    assert "25.0% of the test images are right" in collapse(0.25, test, 4)
    assert collapse(0.30, test, 4)
    assert collapse(0.40, test, 4) is None
    assert collapse(1.0, [(torch.zeros(9, 1, 2, 2), torch.zeros(9).long())], 1) is None
