"""A recipe goes into a run and comes back, and the same recipe gives the same first weights."""

import json
from pathlib import Path

import pytest
import torch

from openset.runs.recipe import Recipe
from openset.training.settings import Settings


def test_a_recipe_comes_back_from_json():
    settings = Settings(schedule="step", milestones=(2, 4), seed=3)
    recipe = Recipe("digits", "0-5", (8, 9), 1, 0.2, weights=Path("a.pt"), settings=settings)
    assert Recipe.from_plain(json.loads(json.dumps(recipe.to_plain()))) == recipe
    assert recipe.seed == 3


def test_settings_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="valid of a recipe is 'some'; expected a number"):
        Recipe("digits", valid="some")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["bin", "vib", "flow-outliers"])
def test_the_seed_decides_all_first_weights_whatever_was_drawn_before(name):
    def first_weights(seed):
        torch.rand(seed + 1)  # Elsewhere, as a benchmark's earlier steps do.
        recipe = Recipe("digits", "0-5", objective=name, settings=Settings(seed=seed))
        return recipe.build_objective(recipe.load_data(), ready=False).state_dict()

    one, same, other = (first_weights(seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_a_training_starts_from_normalised_images_and_a_plan_looks_at_none(monkeypatch):
    recipe = Recipe("digits", "0-5")
    data = recipe.load_data()
    looked = recipe.build_objective(data).network.get_submodule("normalize")
    assert float(looked.mean) == pytest.approx(float(data.train.images.float().mean()) / 255)
    monkeypatch.setattr(type(data.train), "read", None)
    recipe.build_objective(recipe.load_data(), ready=False)


THEIRS = """
from torch import nn

from openset.networks.external import External


def make(classes, pretrained=True):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    return External(network, (0.3,), (0.4,), channels=1, pretrained=pretrained)
"""


def test_a_pretrained_network_keeps_the_mean_that_it_was_trained_with(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.chdir(tmp_path)

    def mean(network):
        recipe = Recipe("digits", "0-5", network=network)
        return float(recipe.build_objective(recipe.load_data()).network.normalize.mean)

    assert mean("theirs:make") == pytest.approx(0.3)
    assert mean("theirs:make:pretrained=false") == mean("cnn") != pytest.approx(0.3)
