"""A run finds its models again, by the names that their detectors were given."""

import json
import re
import shutil

import pytest

from openset.runs.run import Run, load_model, plain_name


def test_folders_of_models_have_names_that_windows_takes(run):
    names = [path.name for path in (run / "models").iterdir()]
    assert sorted(names) == ["energy", "gemos@components=1"]
    assert Run.load(run).models == ["energy", "gemos:components=1"]
    assert load_model(run, "gemos:components=1").name == "gemos:components=1"


@pytest.mark.parametrize(
    "detector", ["vmdls:autoencoder=C:\\runs\\a", "a:b=<x>|?*", "x:y=1.", "fusion:" + "knn+" * 99]
)
def test_any_detector_has_a_folder_of_its_own(detector):
    name = plain_name(detector)
    assert re.fullmatch(r"[\w.=+,@-]{1,107}", name)
    assert not name.endswith(".")
    assert name != plain_name(detector + "_") != plain_name(detector + "/")


def test_models_saved_before_are_found(run, tmp_path):
    old = tmp_path / "run"
    shutil.copytree(run, old)
    (old / "models" / "gemos@components=1").rename(old / "models" / "gemos:components=1")
    shutil.copytree(old / "models" / "energy", old / "models" / "vmdls:autoencoder=_runs_a")
    for file in (old / "models").glob("*/model.json"):
        told = json.loads(file.read_text())
        del told["name"]
        file.write_text(json.dumps(told))
    found = Run.load(old)
    assert found.models == ["energy", "gemos:components=1", "vmdls:autoencoder=_runs_a"]
    for name in ("gemos:components=1", "vmdls:autoencoder=/runs/a"):
        assert found.model_folder(name).exists()


def test_what_a_kill_left_is_no_model(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    models = copy / "models"
    shutil.copytree(models / "energy", models / ".knn.partial")
    (models / "energy").rename(models / ".energy.old")  # Killed in the middle of a replacement.
    assert Run.load(copy).models == ["energy", "gemos:components=1"]
    (models / "energy").rename(models / ".energy.old")
    assert load_model(models / "energy").name == "energy"
