"""What every objective leaves behind can be read, saved, exported and rounded; new ones as well."""

import pytest
import torch
from test_every_objective import CLASSES, images, make

from openset.data import Adapter
from openset.detectors import Energy, build
from openset.extractors.tap import Tap
from openset.model.export import export
from openset.model.open_set import OpenSet
from openset.objectives import OBJECTIVES
from openset.scoring.views import layers_for
from openset.training.loop import train

NAMES = sorted(name for name in OBJECTIVES if OBJECTIVES[name].classifies)


@pytest.fixture(scope="module")
def trained():
    """The network that a moment's training with each objective keeps."""
    found = {}

    def network(name):
        if name not in found:
            how = {"epochs": 2, "batch_size": 24, "lr": 0.02, "device": "cpu"}
            found[name] = train(make(name), [images()], **how)
        return found[name]

    return network


@pytest.fixture(params=NAMES)
def network(request, trained):
    return trained(request.param)


def model_of(network):
    image, label = images(seed=1)
    model = OpenSet(Tap(network, network.stages), Energy(), adapter=Adapter((16, 16), 1))
    return model.calibrate([(image, label)], accept=0.9)


def test_a_tap_reads_its_stages_and_features(network):
    image, _ = images(12, seed=2)
    seen = Tap(network, network.stages)(image)
    assert seen.logits.shape == (12, CLASSES)
    with torch.no_grad():
        assert seen.logits.equal(network(image))
    assert seen.features.keys() == {*network.stages, "penultimate"}
    assert all(x.shape[0] == 12 and x.isfinite().all() for x in seen.features.values())


def test_an_image_alone_gets_the_logits_that_it_gets_in_a_batch(network):
    image, _ = images(6, seed=2)
    with torch.no_grad():
        alone = torch.cat([network(image[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(alone, network(image), rtol=1e-4, atol=1e-5)


def test_a_saved_model_answers_as_before(network, tmp_path):
    model, (image, _) = model_of(network), images(12, seed=2)
    model.save(tmp_path / "model")
    again = OpenSet.load(tmp_path / "model")
    for before, after in zip(model(image), again(image), strict=True):
        assert after.equal(before)


def test_an_exported_model_answers_as_before(network, tmp_path):
    pytest.importorskip("onnxruntime")
    assert export(model_of(network), tmp_path / "model.onnx") < 1e-3


def test_half_precision_gives_nearly_the_same_logits(network):
    image, _ = images(24, seed=2)
    exact = Tap(network)(image).logits
    rounded = Tap(network.bfloat16())(image).logits.float()
    network.float()
    assert rounded.isfinite().all()
    assert (rounded - exact).abs().max() < 0.1 * (exact.amax() - exact.amin()).clamp_min(1)


@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_trains(name):
    """As on an accelerator: the forward pass in bfloat16, the weights in single precision."""
    how = {"epochs": 1, "batch_size": 24, "lr": 0.01, "device": "cpu", "precision": "bf16-mixed"}
    network = train(make(name), [images(48)], **how)
    assert all(x.dtype == torch.float32 for x in network.parameters())
    assert all(x.isfinite().all() for x in network.state_dict().values())


OWN = {
    "c2ae": "c2ae",
    "cgdl": "cgdl",
    "cpgm-aae": "cgdl:rule=published",
    "crosr": "crosr",
    "csi": "csi:crops=2",
    "cross-entropy": "mc-dropout:samples=3",
    "deep-ensemble": "deep-ensemble",
    "generalized-odin": "generalized-odin",
    "learned-confidence": "learned-confidence",
    "one-vs-all": "ovnni",
    "subspaces": "subspaces:draws=2",
}
"""A detector for the networks of an objective."""


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_its_own_detector_is_exported(name, trained, tmp_path):
    pytest.importorskip("onnxruntime")
    network, detector = trained(name), build(OWN[name])
    image, label = images(seed=1)
    tap = Tap(network, layers_for(network, [detector]))
    with torch.no_grad():
        seen = tap(image)
    seen.labels = label
    model = OpenSet(tap, detector.fit([seen]), adapter=Adapter((16, 16), 1))
    model.calibrate([(image, label)], accept=0.9)
    assert export(model, tmp_path / "model.onnx") < 1e-3
