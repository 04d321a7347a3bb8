"""Fitting and calibrating on known data."""

import sys

import pytest
import torch
from torch import nn

from openset import networks
from openset.benchmark.time_left import evaluation_passes
from openset.detectors import KNN, ODIN, VMDLS, Energy, Fusion, Mahalanobis, Temperature, VMDLSb
from openset.extractors.extract import stream
from openset.extractors.tap import Tap
from openset.model.fit import fit
from openset.model.open_set import OpenSet
from openset.scoring.threshold import Threshold, training_quantile
from openset.scoring.views import layers_for


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
    monkeypatch.setattr(sys.modules["openset.model.fit"], "SAMPLED", 60)
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


def small_fusion():
    return Fusion([Energy(), Mahalanobis()])


@pytest.mark.parametrize("make", [Temperature, small_fusion])
def test_the_split_of_held_out_images_does_not_depend_on_the_batch_size(network, make):
    train, held_out = [images(100, 0)], torch.utils.data.TensorDataset(*images(61, 1))
    cuts = [
        fit(network, {"it": make()}, train, held_out, batch_size=size)["it"].threshold
        for size in (1, 7, 256)
    ]
    assert {cut.counts for cut in cuts} == {(30,)}
    for cut in cuts[:2]:
        assert cut.values == pytest.approx(cuts[2].values, rel=1e-5)


@pytest.mark.parametrize("make", [Temperature, small_fusion])
def test_a_model_calibrates_as_fit_does(network, make):
    train, (image, label) = [images(100, 0)], images(61, 1)
    expected = fit(network, {"it": make()}, train, [(image, label)])["it"]
    tap = Tap(network)
    for size in (1, 7, 256):
        model = OpenSet(tap, make().fit(list(stream(tap, train))))
        model.calibrate(list(zip(image.split(size), label.split(size), strict=True)))
        assert model.threshold.counts == expected.threshold.counts == (30,)
        assert model.threshold.values == pytest.approx(expected.threshold.values, rel=1e-5)
    learned, again = expected.detector.state_dict(), model.detector.state_dict()
    for key, value in learned.items():
        torch.testing.assert_close(again[key], value, rtol=1e-4, atol=1e-5)


def test_a_sample_of_the_training_images_does_not_depend_on_the_batch_size(network, monkeypatch):
    monkeypatch.setattr(sys.modules["openset.model.fit"], "SAMPLED", 60)
    train = torch.utils.data.TensorDataset(*images(180, 0))
    blur = nn.AvgPool2d(3, 1, padding=1)
    cuts = []
    for size in (7, 256):
        detectors = {"energy": Energy(), "vmdls": VMDLS(blur, layers=["0"], layer="0")}
        models = fit(network, detectors, train, [images(60, 1)], batch_size=size, training=True)
        cuts.append([model.threshold.training for model in models.values()])
    assert cuts[0] == pytest.approx(cuts[1], rel=1e-4)


def test_detectors_are_fitted_again_on_another_network():
    first = networks.cnn(3, 1, widths=(4, 8), hidden=8)
    second = networks.cnn(3, 1, widths=(4, 8, 8), hidden=8)
    train = torch.utils.data.TensorDataset(*images(240, 0))
    detectors = {
        "mahalanobis": Mahalanobis(layers=None),
        "knn": KNN(k=3, layers=None),
        "vmdls-b": VMDLSb(),
        "fusion": Fusion([Energy(), Mahalanobis(layers=None)]),
    }
    for network, stages in ((second, 3), (first, 2), (second, 3)):
        models = fit(network, detectors, train, [images(60, 1)])
        for name, model in models.items():
            read = [layer for layer in detectors[name].layers_read if layer.startswith("stage")]
            assert len(read) == stages, name
            assert detectors[name].layers is None, name
            model(images(5, 2)[0])


def test_work_is_guessed_by_who_really_looks_again():
    class data:
        train = valid = test = range(10)

    def passes(*detectors):
        return evaluation_passes(data, {}, detectors)

    assert passes(Mahalanobis()) == passes(Energy()) == passes(ODIN(epsilon=0)) == 30
    assert passes(Mahalanobis(epsilon=0.1)) == passes(ODIN()) == 30 + 20 * 4
