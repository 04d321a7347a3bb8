import math

import pytest
import torch
from torch.nn import functional as F

from openset.benchmark import protocol
from openset.data import Adapter, load_images
from openset.networks import cnn
from openset.objectives import OutlierExposure, exposed_to
from openset.objectives.synthetic_outliers import uniform_divergence
from openset.runs.evaluate import evaluate_run
from openset.runs.recipe import Recipe
from openset.runs.run import Run
from openset.runs.train import train_run
from openset.runs.tune import tune_run
from openset.training.settings import Settings

IMAGE = torch.linspace(0, 1, 320).sin().view(5, 1, 8, 8)
LABEL = torch.tensor([0, 2, 1, 1, 0])


def objective(**settings):
    torch.manual_seed(0)
    network = cnn(classes=3, channels=1, widths=(4, 8), hidden=16)
    return OutlierExposure(network, data="gaussian-noise", limit=9, **settings)


def test_the_loss_is_cross_entropy_and_the_divergence_from_uniform():
    exposed = objective(weight=0.7).eval()
    torch.manual_seed(3)
    ((_, loss),) = exposed.step(IMAGE, LABEL)
    torch.manual_seed(3)
    unknown = exposed.logits(exposed.outliers(IMAGE, 10))
    divergence = uniform_divergence(unknown).mean() + math.log(3)
    expected = F.cross_entropy(exposed.logits(IMAGE), LABEL) + 0.7 * divergence
    torch.testing.assert_close(loss, expected)


def test_the_images_are_those_that_are_named():
    exposed = objective()
    all_of_them = load_images("gaussian-noise,limit=9", Adapter((8, 8), 1))
    kept = torch.stack([all_of_them[i][0] for i in range(9)])
    for drawn in exposed.outliers(IMAGE, 20):
        assert (kept == drawn).flatten(1).all(1).any()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = Recipe(
        "digits",
        known_classes="0-5",
        objective="outlier-exposure:data=gaussian-noise,limit=50",
        network="cnn:widths=4+8,hidden=16",
        settings=Settings(epochs=1),
    )
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(recipe, folder, progress=False, device="cpu")
    return folder


def test_results_name_the_data_that_the_network_was_shown(run):
    results = evaluate_run(run, ["uniform-noise"], ["msp", "energy"], device="cpu")
    assert {row.tuned_on for row in results.rows} == {"gaussian-noise"}
    assert Run.load(run).load_model("msp").detector.tuned_on == ("gaussian-noise",)
    _, model, tuned = tune_run(run, "msp", device="cpu")
    assert tuned.tuned_on[0] == "gaussian-noise"
    assert len(model.detector.tuned_on) == 2


def test_a_test_on_that_data_is_refused(run):
    with pytest.raises(ValueError, match="gaussian-noise is an unknown set of the test"):
        evaluate_run(run, ["gaussian-noise,limit=20"], ["max-logit"], device="cpu")
    results = evaluate_run(run, ["gaussian-noise"], ["msp"], allow_leak=True, device="cpu")
    assert len(results.rows)


def test_a_protocol_that_tests_on_it_is_refused(tmp_path):
    text = """
title = "tiny"
data = "digits"
unknown = ["gaussian-noise,limit=9"]
network = "cnn"
detectors = ["msp"]
objective = "outlier-exposure:data={}"
"""
    path = tmp_path / "tiny.toml"
    path.write_text(text.format("gaussian-noise"))
    with pytest.raises(
        ValueError, match=r"objective: gaussian-noise is an unknown set of the test"
    ):
        protocol.load(str(path))
    path.write_text(text.format("uniform-noise"))
    assert exposed_to(protocol.load(str(path)).methods[0].objective) == ("uniform-noise",)


def test_a_ratio_of_nothing_is_refused():
    with pytest.raises(ValueError, match="ratio must be above 0; got 0"):
        objective(ratio=0)
