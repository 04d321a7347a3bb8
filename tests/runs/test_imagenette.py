"""The first hour with a trained network: ImageNet's, for the ten classes of Imagenette."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from command_line import call

import openset
from openset.data.places import local_place
from openset.evaluation.results import Results
from openset.runs.run import Run
from openset.scoring.threshold import strays

pytestmark = pytest.mark.slow

CLASSES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
"""ImageNet's positions of Imagenette's classes."""

NETWORK = "timm:tf_efficientnet_lite0"

HELD_OUT = "imagenette:test[:50%]"
"""The validation split is no held-out set: it comes from the images that ImageNet trains on."""


@pytest.fixture(scope="module")
def weights():
    if find_spec("timm") is None:
        pytest.skip("the extra `vision` is not installed")
    file = Path(os.environ.get("OPENSET_MODELS", "."), "efficientnet-lite0-imagenet.safetensors")
    sets = ("imagenette", "imagewoof", "imagenet-1k-sample")
    if not file.exists() or any(local_place(name) is None for name in sets):
        pytest.skip("set OPENSET_MODELS and OPENSET_DATA to the folders of networks and data")
    return file


def test_three_commands(weights, tmp_path):
    outputs = ",".join(map(str, CLASSES))
    others = f"imagenet-1k-sample,without={outputs.replace(',', '+')}"
    run, out = tmp_path / "run", tmp_path / "out"
    given = ("--weights", weights, "--data", "imagenette", "--outputs", outputs)
    call("import", NETWORK, *given, "--held-out", HELD_OUT, "--out", run)
    call("fit", run, "--detector", "energy")
    call("evaluate", run, "--unknown", "imagewoof", others, "--out", out)

    assert Run.load(run).accuracy["test"] >= 0.97
    results = Results.load(out)
    figures = {(row.unknown, row.metric): row.value for row in results.rows}
    assert figures["imagewoof", "auroc"] >= 0.99
    assert figures[others, "auroc"] >= 0.99
    ((case, threshold),) = results.thresholds.items()
    score = results.scored[case][case.known].score
    low, high = threshold["interval"]
    assert len(score) == 600
    assert low <= (score <= threshold["value"]).double().mean() <= high


def test_eight_lines(weights, tmp_path):
    network = openset.networks.build(NETWORK, classes=1000)
    openset.networks.load_weights(network, weights)
    network = openset.networks.select(network, CLASSES)
    adapter = openset.data.Adapter.of(network)
    data = openset.data.load("imagenette", adapter=adapter)
    held_out = openset.data.load_known(HELD_OUT, data.classes, adapter)
    model = openset.wrap(network, data.train, held_out, "energy", classes=data.classes)
    model.save(tmp_path / "model")

    again = openset.OpenSet.load(tmp_path / "model")
    assert again.threshold.values == model.threshold.values
    test = openset.data.load_known("imagenette:test[50%:],limit=100", data.classes, adapter)
    image, label = next(iter(test.batches(100)))
    answer, score = again(image)
    assert ((answer == label) | (answer < 0)).double().mean() >= 0.97
    accepted = int((score <= torch.tensor(again.threshold.values)).sum())
    assert not strays(accepted, len(test), again.threshold.coverage)
