"""Fitting and calibrating on known data."""

import sys

import pytest
import torch
from torch import nn

from openset.detectors import VMDLS, Energy, VMDLSb
from openset.fit import fit
from openset.model import layers_for
from openset.store import stream
from openset.tap import Tap
from openset.threshold import Threshold, training_quantile


def images(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 3


@pytest.fixture
def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))


def fitted(network, train, **options):
    blur = nn.AvgPool2d(3, 1, padding=1)
    detectors = {
        "energy": Energy(),
        "vmdls-b": VMDLSb(layers=["0"]),
        "vmdls": VMDLS(blur, layers=["0"], layer="0"),
    }
    return fit(network, detectors, train, [images(60, 1)], batch_size=32, **options)


def training_scores(tap, detector, images):
    return torch.cat(
        [detector.training_score(batch) for batch in stream(detector.view(tap), images)]
    )


def test_the_training_threshold_accepts_the_share_of_the_training_images(network):
    train = [images(100, 0), images(80, 2)]
    models = fitted(network, train, training=True)
    plain = fitted(network, train)
    for name, model in models.items():
        tap = Tap(network, layers_for(network, [model.detector]))
        seen = training_scores(tap, model.detector, train)
        cut = model.threshold.training
        assert int((seen <= cut).sum()) == 171, name  # 95 % of 180
        assert model.threshold.record()["training"] == cut
        assert Threshold.from_settings(model.threshold.settings()) == model.threshold
        assert plain[name].threshold.training is None
        assert plain[name].threshold.values == model.threshold.values


def test_of_many_training_images_some_are_looked_at(network, monkeypatch):
    monkeypatch.setattr(sys.modules["openset.fit"], "SAMPLED", 60)
    image, label = images(180, 0)
    models = fitted(network, [(image, label)], training=True)
    for name, model in models.items():
        tap = Tap(network, layers_for(network, [model.detector]))
        third = training_scores(tap, model.detector, [(image[::3], label[::3])])
        assert model.threshold.training == training_quantile(third, 0.95), name


def test_a_training_quantile_is_the_smallest_score_that_accepts_the_share():
    scores = torch.randperm(40).float()
    assert training_quantile(scores, 0.95) == 37
    assert training_quantile(scores, 0.951) == 38
    assert training_quantile(scores[:1], 0.5) == scores[0]
