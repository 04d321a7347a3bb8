"""The first hour with a trained network: ImageNet's, for the ten classes of Imagenette."""

import csv
import os
from pathlib import Path

import pytest
from command_line import call

import openset
from openset.data.places import local_place
from openset.runs.run import Run

pytestmark = pytest.mark.slow

CLASSES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
"""ImageNet's positions of Imagenette's classes."""

NETWORK = "timm:tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("timm")
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
    call("import", NETWORK, *given, "--held-out", "valid", "--out", run)
    call("fit", run, "--detector", "energy")
    call("evaluate", run, "--unknown", "imagewoof", others, "--out", out)
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    found = {(row["unknown"], row["metric"]): float(row["value"]) for row in rows}
    assert Run.load(run).accuracy["test"] >= 0.97
    assert found["imagewoof", "auroc"] >= 0.99
    assert found[others, "auroc"] >= 0.99


def test_eight_lines(weights, tmp_path):
    data = openset.data.load("imagenette", size=224)
    network = openset.networks.build(NETWORK, classes=1000)
    openset.networks.load_weights(network, weights)
    network = openset.networks.select(network, CLASSES)
    model = openset.wrap(network, data.train, data.valid, "energy", classes=data.classes)
    model.save(tmp_path / "model")

    again = openset.OpenSet.load(tmp_path / "model")
    accepted = sum(int((again(x)[0] >= 0).sum()) for x, _ in data.test.batches(128))
    low, high = again.threshold.coverage
    assert low <= accepted / len(data.test) <= high
