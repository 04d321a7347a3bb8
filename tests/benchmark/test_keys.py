"""Fingerprints of code: what counts, and what does not."""

import sys

import pytest
from torch import nn

from openset import networks
from openset.benchmark import keys
from openset.detectors import Energy
from openset.objectives import CrossEntropy
from openset.runs.recipe import Recipe

CODE = "def f(x):\n    return x + 1\n"

TOLD = '''# Why.
"""A module."""

def f(x):
  """Adds one."""
  return (x + 1)  # One.
'''


def test_another_python_has_the_same_key():
    """What 3.12 and later quote otherwise, and a field that only they have."""
    one, other = """x = f"{', '.join(y)}"\n""", """x = f'{", ".join(y)}'\n"""
    assert keys.bare(one) == keys.bare(other)
    assert "type_params" not in keys.bare(CODE)


def test_comments_and_docstrings_do_not_count():
    assert keys.bare(TOLD) == keys.bare(CODE)
    assert keys.bare(CODE.replace("1", "2")) != keys.bare(CODE)
    assert keys.bare(CODE.replace("1", "'1'")) != keys.bare(CODE.replace("1", "'2'"))


def test_training_code_is_the_loop_the_objective_and_the_networks_factory():
    recipe = Recipe("digits", "0-5", objective="vmdls")
    objective = recipe.build_objective(recipe.load_data(), ready=False)
    found = keys.sources(keys.TRAINING, [objective])
    expected = {
        "training.loop",
        "data.noise",
        "objectives.vmdls",
        "networks.cnn",
        "networks.latent",
        "moments",
    }
    assert {f"openset.{name}" for name in expected} <= found
    others = {"objectives.bottleneck", "networks.vgg", "networks.heads.ensemble", "errors"}
    assert not {f"openset.{name}" for name in others} & found


def test_evaluation_code_is_that_of_the_figures_and_the_detector():
    found = keys.sources(keys.EVALUATION, [Energy(), networks.cnn(classes=2, channels=1)])
    assert {"openset.detectors.logits", "openset.evaluation.metrics"} <= found
    others = {"detectors.fusion", "detectors.gemos", "densities.gaussian_mixture", "data.tables"}
    assert not {f"openset.{name}" for name in others} & found


def test_settings_of_another_schedule_do_not_count():
    recipe = Recipe("digits")
    adapter = recipe.load_data().adapter
    other = Recipe("digits", settings=recipe.settings.changed({"step_every": 9}))
    steps = [
        Recipe("digits", settings=recipe.settings.changed({"schedule": "step", "step_every": n}))
        for n in (3, 9)
    ]
    facts = [keys.facts(each, ["0"], adapter, None) for each in (recipe, other, *steps)]
    assert facts[0] == facts[1]
    assert facts[2] != facts[3]


def test_an_augmentation_counts_where_it_is_used():
    objective = CrossEntropy(networks.cnn(classes=2, channels=1))
    plain = Recipe("digits")
    changed = Recipe("digits", settings=plain.settings.changed({"augment": "shift-flip"}))
    codes = [keys.training_code(objective, recipe) for recipe in (plain, changed)]
    assert codes[0] != codes[1]


def test_the_users_own_code_counts_and_that_of_libraries_does_not(tmp_path, monkeypatch):
    file = tmp_path / "my_layers.py"
    file.write_text("from torch import nn\n\nclass Mine(nn.Module):\n    rate = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import my_layers  # pyright: ignore[reportMissingImports]

    mine = my_layers.Mine()
    assert keys.sources([], [nn.Sequential(mine, nn.Linear(2, 2))]) == {"my_layers"}
    before = keys.code_of([], [mine])
    file.write_text(file.read_text().replace("rate = 1", "rate = 2"))
    keys._source.cache_clear()
    assert keys.code_of([], [mine]) != before
    del sys.modules["my_layers"]


def test_a_missing_file_of_weights_is_named(tmp_path):
    with pytest.raises(ValueError, match="no file of weights"):
        keys.file_digest(tmp_path / "none")
