"""Training with outliers on few images is no worse than without."""

import pytest

from openset import Tap, evaluate
from openset.data import load_images
from openset.detectors import MaxSoftmax
from openset.runs.recipe import Recipe
from openset.training.loop import train
from openset.training.settings import Settings

DIGITS = {
    "flow-outliers": "flow-outliers:blocks=1,couplings=4",
    "gan-outliers": "gan-outliers:width=32",
    "noise-outliers": "noise-outliers",
}


@pytest.mark.slow
def test_no_training_with_outliers_ends_below_plain_training_on_the_digits():
    """Classes 0–5, `cnn`, 15 epochs, Gaussian noise unknown: the mean AUROC over three seeds.

    650 images teach neither generator enough to draw a border, and then neither may draw one.
    """
    plain = [auroc_on_noise("cross-entropy", seed) for seed in range(3)]
    for spec in DIGITS.values():
        found = [auroc_on_noise(spec, seed) for seed in range(3)]
        assert sum(found) / 3 > sum(plain) / 3 - 0.005, (spec, found, plain)


def auroc_on_noise(spec, seed):
    settings = Settings(epochs=15, seed=seed)
    recipe = Recipe("digits", known_classes="0-5", objective=spec, settings=settings)
    data = recipe.load_data()
    network = train(recipe.build_objective(data), data, settings, device="cpu", progress=False)
    noise = load_images("gaussian-noise,limit=500", data.adapter)
    found = evaluate(Tap(network), [MaxSoftmax()], known=data.test, unknown={"noise": noise})
    return next(row.value for row in found.rows if row.metric == "auroc")
