"""Real images as outliers: which pieces are shown, and what the network is told of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.benchmark import protocol
from openset.data import Adapter, load_images
from openset.objectives import OutlierExposure, exposed_to
from openset.objectives.synthetic_outliers import uniform_divergence
from openset.runs.evaluate import evaluate_run
from openset.runs.recipe import Recipe
from openset.runs.run import Run
from openset.runs.train import train_run
from openset.runs.tune import tune_run
from openset.training.settings import Settings

from tiny_protocol import TINY  # isort: skip


def digits(size):
    found = load_images("digits:test", Adapter(size, 1, resize="shorter"))
    return found.images.float() / 255


def test_the_loss_is_that_of_foreign_images_of_the_training_size():
    network = nn.Sequential(nn.Conv2d(1, 3, (8, 12)), nn.Flatten())
    objective = OutlierExposure(network, "digits:test", weight=0.5, count=5)
    image, label = torch.rand(4, 1, 8, 12), torch.arange(4) % 3
    torch.manual_seed(1)
    ((_, loss),) = objective.step(image, label)
    torch.manual_seed(1)
    shown = objective.draw(5, (8, 12), None)
    foreign = digits((8, 12))
    assert all((foreign == one).flatten(1).all(1).any() for one in shown)
    expected = F.cross_entropy(network(image), label)
    expected = expected + 0.5 * uniform_divergence(network(shown)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert objective.settings()["data"] == "digits:test"


def test_pieces_of_foreign_images_are_pasted_where_pixels_are_labelled():
    network = nn.Conv2d(1, 3, 3, padding=1)
    objective = OutlierExposure(network, "digits:test", sides=(0.25, 0.5))
    image, label = torch.full((3, 1, 32, 40), 0.5), torch.zeros(3, 32, 40, dtype=torch.long)
    seen = []
    network.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    foreign = digits((16, 16))
    for _ in range(4):
        list(objective.step(image, label))
        piece = (seen[-1] != 0.5)[0, 0]
        assert 4 < int(piece.sum()) <= 16 * 16
    assert objective.samples(6).shape == (6, 1, 16, 16)
    assert all((foreign == one).flatten(1).all(1).any() for one in objective.samples(6))
    small = objective.draw(1, (8, 8), torch.Generator().manual_seed(0))
    windows = foreign.unfold(2, 8, 1).unfold(3, 8, 1)
    assert (windows == small[0, 0]).all(-1).all(-1).any()


def test_data_must_not_be_those_of_a_protocol_s_test(tmp_path):
    path = tmp_path / "own.toml"
    told = 'seeds = 2\nobjective = "outlier-exposure:data=gaussian-noise"'
    path.write_text(TINY.replace("seeds = 2", told))
    with pytest.raises(ValueError, match="gaussian-noise is an unknown set of the test"):
        protocol.load(str(path))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = Recipe(
        "digits",
        known_classes="0-5",
        objective="outlier-exposure:data=gaussian-noise",
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
