"""A threshold is set by the arithmetic that it is used with, and has a margin for the rest."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from openset import networks
from openset.detectors import KNN, ODIN, Energy, Mahalanobis, MaxSoftmax
from openset.extractors.extract import extract
from openset.extractors.tap import Tap
from openset.model.export import export
from openset.model.fit import fit
from openset.model.open_set import OpenSet
from openset.scoring.threshold import ALIKE

ACCEPT = 0.9


@pytest.fixture
def network():
    torch.manual_seed(0)
    return networks.cnn(classes=3, channels=3, widths=(16, 32), hidden=32).eval()


@pytest.fixture
def tied():
    """500 images, of which only ten differ: nine of ten scores equal many others."""
    few = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return few.repeat(50, 1, 1, 1), torch.arange(500) % 3


FORMATS = (torch.contiguous_format, torch.channels_last)


def accepted(model, images, size, memory_format=torch.contiguous_format):
    parts = images.contiguous(memory_format=memory_format).split(size)
    return torch.cat([model(part)[0] >= 0 for part in parts])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("detector", [Energy, MaxSoftmax, Mahalanobis, KNN, ODIN])
def test_equal_scores_stay_on_one_side_of_the_threshold(
    network, tied, detector, channels_last, tmp_path
):
    images, labels = tied
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if detector is MaxSoftmax:
        network.head.weight.data *= 100  # Saturated, so that the scores are tiny.
    train = [(torch.rand(90, 3, 16, 16), torch.arange(90) % 3)]
    (model,) = fit(network, {"d": detector()}, train, [(images, labels)], accept=ACCEPT).values()
    kept = accepted(model, images, 500)
    assert int(kept.sum()) == model.threshold.accepted[0] >= ACCEPT * 500
    model.save(tmp_path / "m")
    loaded = OpenSet.load(tmp_path / "m").eval()
    weight = next(x for x in loaded.tap.network.parameters() if x.dim() == 4)
    assert weight.stride() == next(x for x in network.parameters() if x.dim() == 4).stride()
    for each, memory_format in itertools.product((model, loaded), FORMATS):
        assert accepted(each, images, 500, memory_format).equal(kept)
        for size in (1, 7):  # The others are the same ten images again.
            assert accepted(each, images[:20], size, memory_format).equal(kept[:20])


def test_equal_scores_stay_there_in_an_exported_file(network, tied, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    images, _ = tied
    model = OpenSet(Tap(network), Energy()).calibrate([tied], ACCEPT)
    kept = accepted(model, images, 500)
    export(model, tmp_path / "model.onnx", (3, 16, 16))
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    given = {"image": images.numpy(), "threshold": model.get_buffer("values").float().numpy()}
    assert (session.run(["label"], given)[0] >= 0).tolist() == kept.tolist()


@pytest.mark.parametrize("nothing", [[], (), [[]]])
def test_nothing_to_calibrate_on_is_one_sentence(network, nothing):
    with pytest.raises(ValueError, match=r"no images|expected|batch 0"):
        OpenSet(Tap(network), Energy()).calibrate(nothing)


@pytest.mark.parametrize("accept", ["0.9", 0, 1, None, float("nan")])
def test_a_share_that_is_none_is_refused_before_the_images_are_read(network, accept):
    def images():
        raise AssertionError("read")
        yield

    with pytest.raises(ValueError, match="accept must lie between 0 and 1"):
        OpenSet(Tap(network), Energy()).calibrate(images(), accept)
    with pytest.raises(ValueError, match="accept must lie between 0 and 1"):
        fit(network, {"d": Energy()}, images(), images(), accept=accept)


def test_numpy_serves_as_tensors_do(network):
    images, labels = torch.rand(100, 3, 16, 16), torch.arange(100) % 3
    one = OpenSet(Tap(network), Energy()).calibrate([(images, labels)], np.float64(0.9))
    two = OpenSet(Tap(network), Energy()).calibrate([(images.numpy(), labels.numpy())], 0.9)
    assert one.threshold == two.threshold
    assert two(images.numpy())[0].equal(two(images)[0])


@pytest.mark.parametrize("images", [[torch.zeros(3, 16, 16)], [[0.0]], None, np.array(["a"])])
def test_a_model_asks_for_images_in_one_sentence(network, images):
    with pytest.raises(ValueError, match=r"the batch is .*; give the images as one tensor"):
        OpenSet(Tap(network), Energy())(images)


def test_pixels_promise_nothing():
    network = nn.Conv2d(1, 3, 1)
    images, labels = torch.rand(4, 1, 16, 16), torch.randint(3, (4, 16, 16))
    model = OpenSet(Tap(network), Energy()).calibrate([(images, labels)], 0.9)
    assert model.threshold.doubt == ALIKE
    given = extract(Tap(network), [(images, labels)])
    assert OpenSet(Tap(network), Energy()).calibrate(given, 0.9).threshold.doubt == ALIKE
    models = fit(network, {"d": Energy()}, [(images, labels)], [(images, labels)], accept=0.9)
    assert models["d"].threshold.doubt == ALIKE
