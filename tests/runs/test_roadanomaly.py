"""A network of street scenes, as it is, on roads with strange objects: no training, no data."""

import os
import sys
from pathlib import Path

import pytest
from command_line import call

from openset.data.places import local_place
from openset.evaluation.results import Results

pytestmark = pytest.mark.slow

SET = "segmentmeifyoucan-roadanomaly21"

WEIGHTS = "deeplab-mobilenet-cityscapes.safetensors"

ROADS = """
import os

from graph_net import GraphNet
from torch import nn
from torch.nn.functional import interpolate


class Roads(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = GraphNet(os.environ["ROAD_WEIGHTS"])

    def forward(self, image):
        large = interpolate(image, (577, 1025), mode="bilinear", align_corners=True)
        logits = self.network(large)  # It wants sides of 16 k + 1 pixels.
        return interpolate(logits, image.shape[2:], mode="bilinear", align_corners=True)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the network of one's own, in which the commands run."""
    models = Path(os.environ.get("OPENSET_MODELS", "."))
    if not (models / WEIGHTS).exists() or local_place(SET) is None:
        pytest.skip("set OPENSET_MODELS and OPENSET_DATA to the folders of networks and data")
    (tmp_path / "roads.py").write_text(ROADS)
    (tmp_path / "graph_net.py").write_text((models / "graph_net.py").read_text())
    monkeypatch.setenv("ROAD_WEIGHTS", str(models / WEIGHTS))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("roads", "graph_net"):
        sys.modules.pop(name, None)


def test_two_commands_without_training(folder):
    call("import", "roads:Roads", "--classes", "19", "--size", "360x640", "--out", "run")
    detectors = ("--detector", "msp", "--detector", "entropy:temperature=2")
    named = ("--network", "roads:Roads")
    call("evaluate", "run", *named, *detectors, "--unknown", SET, "--out", "found")

    rows = Results.load("found").rows
    assert {row.metric for row in rows} & {"accuracy", "miou"} == set()
    figures = {(row.detector, row.metric): row.value for row in rows}
    assert figures["msp", "ap"] >= 0.35
    assert figures["msp", "auroc"] >= 0.81
    assert figures["entropy:temperature=2", "ap"] > figures["msp", "ap"]
    assert (folder / "found" / "report.html").stat().st_size
