"""Runs on disk: what they say, those of earlier versions, and those that nobody here trained."""

import json
import shutil
from dataclasses import replace

import pytest

from openset.data import Adapter
from openset.files import SEAL
from openset.runs.evaluate import evaluate_run
from openset.runs.run import Run


def older(run: Run) -> dict:
    """The description of a run as it was before there were recipes."""
    told = json.loads((run.folder / "run.json").read_text())
    recipe = told.pop("recipe")
    del told[SEAL]
    kept = {key: recipe[key] for key in ("data", "known_classes", "valid")}
    return {**kept, **told, "training": recipe["settings"], "seed": recipe["settings"]["seed"]}


@pytest.fixture
def copy(run, tmp_path):
    """The run, for tests that change it."""
    shutil.copytree(run, tmp_path / "run")
    return Run.load(tmp_path / "run")


def test_a_run_holds_its_recipe_and_adapter(run):
    told = Run.load(run)
    assert told.recipe.network == "cnn:widths=8+16,hidden=32"
    assert (told.recipe.known_classes, told.recipe.valid) == ("0-5", 0.2)
    assert (told.recipe.settings.epochs, told.recipe.settings.optimizer) == (6, "adam")
    assert told.adapter == Adapter((8, 8), channels=1)
    assert told.origin == "trained with cross-entropy, seed 0"


def test_a_run_of_an_earlier_version_gives_the_same_results(copy):
    detectors = ["energy", "gemos:components=1"]
    now = evaluate_run(copy.folder, [], detectors)
    (copy.folder / "run.json").write_text(json.dumps(older(copy), indent=2))
    read = Run.load(copy.folder)
    assert read.recipe == replace(copy.recipe, size=(8, 8), channels=1, network="cnn")
    before = evaluate_run(copy.folder, [], detectors)
    assert repr(before.rows) == repr(now.rows)
    read.save()
    assert Run.load(copy.folder) == read


def test_a_network_that_was_trained_elsewhere_says_so(copy):
    copy.objective, copy.accuracy = None, {}
    copy.save()
    read = Run.load(copy.folder)
    assert read.origin == read.case.objective == "imported"
    results = evaluate_run(copy.folder, [], ["energy"])
    assert {row.objective for row in results.rows} == {"imported"}
    assert results.notes["Network"] == "cnn, imported"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("recipe", "valid"), "much"),
        (("recipe", "settings", "epochs"), -1),
        (("recipe", "settings"), []),
        (("recipe", "colour"), "red"),
        (("adapter", "channels"), 7),
        (("recipe",), None),
        (("mood",), "good"),
    ],
)
def test_a_damaged_description_is_one_sentence(copy, path, value):
    file = copy.folder / "run.json"
    told = json.loads(file.read_text())
    inner = told
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"run\.json is damaged \(.*\); make the run again"):
        Run.load(copy.folder)


@pytest.mark.parametrize("text", ["[]", "{}", "3", "{", "null"])
def test_what_is_no_description_is_one_sentence(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        Run.load(tmp_path)
