"""The exported file answers as the model does, on images that the export never saw."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from openset import networks
from openset.activations import UNKNOWN
from openset.data import Adapter
from openset.detectors import ODIN, Energy, Mahalanobis, build
from openset.extractors.extract import extract
from openset.extractors.tap import Tap
from openset.model.export import export
from openset.model.open_set import OpenSet
from openset.scoring.false_discoveries import q_values
from openset.scoring.held_out import HeldOut
from openset.scoring.views import layers_for

runtime = pytest.importorskip("onnxruntime")
SLOW = [
    "msp",
    "gen",
    "mahalanobis",
    "relative-mahalanobis",
    "knn:k=3",
    "vim",
    "react",
    "scale",
    "ash",
    "vra",
    "dice",
    "fdbd",
    "nnguide:k=3",
    "nci",
    "she",
    "pnml",
    "nac",
    "weiper:repeats=5",
    "mahalanobis-plus-plus",
    "mlod:k=3",
    "masf",
    "fusion",
    "fusion:energy+mahalanobis,combine=simes",
    "gemos:density=pca,components=2",
    "gemos:density=one-class-svm",
    "gemos:density=isolation-forest",
    "gemos:density=local-outlier-factor",
    "fusion:energy+mahalanobis,combine=guard",
]
DETECTORS = [
    "openmax",
    "gemos:components=1",
    "fusion:energy+mahalanobis",
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return networks.cnn(classes=3, channels=1, widths=(4, 6), hidden=8).eval()


@pytest.fixture(scope="module")
def known(network):
    images = torch.rand(300, 1, 8, 8)
    with torch.no_grad():
        logits = network(images)
        network.head.bias -= logits.mean(0)  # All classes occur among the predictions.
        return torch.utils.data.TensorDataset(images, network(images).argmax(1))


def made(network, known, detector, **how):
    tap = Tap(network, layers_for(network, [detector]))
    seen = extract(tap, known)
    detector.fit(seen)
    if detector.held_out:
        detector.adjust(seen)
    adapter = Adapter((8, 8), 1)
    return OpenSet(tap, detector, classes=["a", "b", "c"], adapter=adapter).calibrate(
        known, 0.7, **how
    )


@pytest.mark.parametrize("name", DETECTORS)
def test_answers_as_the_model_does(network, known, name, tmp_path):
    model = made(network, known, build(name))
    file = tmp_path / "model.onnx"
    assert export(model, file) < 1e-3
    session = runtime.InferenceSession(str(file))
    image = torch.rand(41, 1, 8, 8)
    label, score = model(image)
    threshold = model.get_buffer("values").float().numpy()
    its = session.run(None, {"image": image.numpy(), "threshold": threshold})
    torch.testing.assert_close(torch.from_numpy(its[1]), score.float(), rtol=1e-3, atol=1e-4)
    assert (torch.from_numpy(its[0]) == label).float().mean() > 0.95
    assert 0 < (label == UNKNOWN).sum() < 41
    rare = model.held_out.p_values(torch.from_numpy(its[1]), torch.zeros(41).long())
    torch.testing.assert_close(torch.from_numpy(its[2]), rare.float())
    everything = {"image": image.numpy(), "threshold": threshold + 1e9}
    assert (session.run(["label"], everything)[0] >= 0).all()


def test_a_model_that_has_never_looked_is_exported(network, known, tmp_path):
    """As a training, a fit and an export in one process leave it."""
    model = made(network, known, Energy())
    untouched = OpenSet(Tap(network), model.detector)
    untouched.set_threshold(model.threshold)
    assert export(untouched, tmp_path / "model.onnx", (1, 8, 8)) < 1e-3


PIXELS = [
    "msp:temperature=10",
    "knn:k=3,layers=stage1",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("entropy", "mahalanobis:layers=stage1", "gemos:components=1,layers=stage1")
    ),
]


@pytest.mark.parametrize("name", PIXELS)
def test_labels_pixels_as_the_model_does(name, tmp_path):
    torch.manual_seed(0)
    network = networks.ladder_small(classes=3, channels=1, width=4).eval()
    images, labels = torch.rand(4, 1, 32, 32), torch.randint(3, (4, 32, 32))
    detector = build(name)
    tap = Tap(network, detector.layers or ())
    detector.fit([replace(tap(images), labels=labels)])
    model = OpenSet(tap, detector).calibrate([(images, labels)], 0.7)
    file = tmp_path / "model.onnx"
    assert export(model, file, (1, 32, 32)) < 1e-3
    image = torch.rand(7, 1, 32, 32)
    given = {"image": image.numpy(), "threshold": model.get_buffer("values").float().numpy()}
    its_label, its_score = runtime.InferenceSession(str(file)).run(["label", "score"], given)
    label, score = model(image)
    torch.testing.assert_close(torch.from_numpy(its_score), score.float(), rtol=1e-3, atol=1e-4)
    assert its_label.shape == (7, 32, 32)
    assert (torch.from_numpy(its_label) == label).float().mean() > 0.95


def test_a_threshold_for_each_class_and_what_the_file_says(network, known, tmp_path):
    model = made(network, known, Energy(), per_class=True)
    export(model, tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["openset.classes"]) == ["a", "b", "c"]
    assert json.loads(said["openset.adapter"])["size"] == [8, 8]
    assert json.loads(said["openset.threshold"])["accept"] == 0.7
    image = torch.rand(30, 1, 8, 8)
    given = {"image": image.numpy(), "threshold": model.get_buffer("values").float().numpy()}
    label, score, rare = session.run(None, given)
    assert (label == model(image)[0].numpy()).mean() > 0.95
    nearest = model.tap(image).logits.argmax(1)
    own = model.held_out.p_values(torch.from_numpy(score), nearest)
    assert np.isclose(rare, own, rtol=1e-5).mean() > 0.95
    assert sum(json.loads(said["openset.held_out"])) == 300


def test_images_are_judged_together_by_the_p_values_of_a_file(network, known, tmp_path):
    made(network, known, Mahalanobis()).save(tmp_path / "model")
    model = OpenSet.load(tmp_path / "model")
    export(model, tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    image = torch.cat([torch.rand(40, 1, 8, 8), 1 - torch.rand(20, 1, 8, 8) / 9])
    threshold = model.get_buffer("values").float().numpy()
    (rare,) = session.run(["p_value"], {"image": image.numpy(), "threshold": threshold})
    marked = q_values(torch.from_numpy(rare)) <= 0.3
    answers = model.predict(image, fdr=0.3)
    assert marked.tolist() == [answer.label == "unknown" for answer in answers]
    assert 0 < int(marked.sum()) < 60


def test_a_model_without_held_out_scores_gives_no_p_value(network, known, tmp_path):
    model = made(network, known, Energy())
    model.held_out = HeldOut()
    export(model, tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [output.name for output in session.get_outputs()] == ["label", "score"]


def test_what_cannot_be_exported_says_so(network, known, tmp_path):
    file = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match="odin steps along a gradient"):
        export(made(network, known, ODIN()), file)
    with pytest.raises(ValueError, match="has no threshold"):
        export(OpenSet(Tap(network), Energy()), file)
    bare = OpenSet(Tap(network), Energy()).calibrate(known, 0.7)
    with pytest.raises(ValueError, match="pass size="):
        export(bare, file)
    assert not any(tmp_path.iterdir())


def test_a_file_that_does_not_run_is_not_kept(network, known, tmp_path, monkeypatch):
    def broken(path):
        raise RuntimeError("no kernel for Frobnicate\nand more")

    monkeypatch.setattr(runtime, "InferenceSession", broken)
    with pytest.raises(ValueError, match="does not run the exported file: no kernel for Frob"):
        export(made(network, known, Energy()), tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


def test_a_file_that_disagrees_is_not_kept(network, known, tmp_path, monkeypatch):
    model = made(network, known, Mahalanobis())
    monkeypatch.setattr("openset.model.export.TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="scores differently"):
        export(model, tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())
