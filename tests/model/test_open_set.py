import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from openset import networks
from openset.activations import UNKNOWN
from openset.data import Adapter
from openset.detectors import ODIN, Energy, Fusion, GeMOS, Mahalanobis
from openset.extractors.extract import extract
from openset.extractors.tap import Tap
from openset.model.open_set import OpenSet
from openset.model.predict import opened
from openset.scoring.threshold import Threshold
from openset.scoring.views import layers_for


@pytest.fixture
def network():
    return networks.cnn(classes=3, channels=1, widths=(4, 6), hidden=8)


@pytest.fixture
def known():
    images = torch.rand(120, 1, 8, 8)
    return torch.utils.data.TensorDataset(images, torch.arange(120) % 3)


def fitted(network, known, detector=None):
    tap = Tap(network, network.stages)
    detector = (detector or Mahalanobis(layers=None)).fit(extract(tap, known))
    adapter = Adapter((8, 8), 1)
    model = OpenSet(tap, detector, classes=["a", "b", "c"], adapter=adapter)
    return model.calibrate(known, accept=0.9)


def test_answers_a_class_or_unknown(network, known):
    model = fitted(network, known)
    images = known.tensors[0]
    label, score = model(images)
    (value,) = model.threshold.values
    assert torch.equal(label == UNKNOWN, score > value)
    assert int((label == UNKNOWN).sum()) == 120 - 109  # The 109th smallest of 120 is the threshold.
    kept = label != UNKNOWN
    assert torch.equal(label[kept], model.tap(images).logits.argmax(1)[kept])


@pytest.mark.parametrize("kind", [Mahalanobis, GeMOS])
def test_one_layer_may_stand_alone(network, known, kind):
    alone, listed = kind(layers="stage1"), kind(layers=("stage1",))
    assert layers_for(network, [alone]) == layers_for(network, [listed]) == ("stage1",)
    assert Tap(network, "stage1").layers == ("stage1",)
    fusion = Fusion((Energy(), Mahalanobis(layers="stage1")))
    assert fusion.layers == ("stage1",)


def test_without_a_threshold_nothing_is_unknown(network):
    label, _ = OpenSet(Tap(network), Energy())(torch.rand(5, 1, 8, 8))
    assert (label >= 0).all()


def test_a_threshold_for_each_class_looks_at_the_predicted_one(network, known):
    model = OpenSet(Tap(network), Energy())
    model.calibrate(known, accept=0.5)
    predicted = model.tap(known.tensors[0]).logits.argmax(1)
    if len(predicted.unique()) < 3:
        network.head.bias.data.zero_()
    model.set_threshold(Threshold((-1e9, 1e9, -1e9), 0.5, (1, 1, 1)))
    label, _ = model(known.tensors[0])
    assert set(label.unique().tolist()) <= {UNKNOWN, 1}


def test_calibrating_on_activations_equals_calibrating_on_images(network, known):
    a = OpenSet(Tap(network), Energy()).calibrate(known, 0.9).threshold
    b = OpenSet(Tap(network), Energy()).calibrate(extract(Tap(network), known), 0.9).threshold
    assert a == b


def test_a_second_look_cannot_be_calibrated_on_plain_activations(network, known):
    with pytest.raises(
        ValueError, match=r"ODIN looks at the image again.*pass the images, such as data.valid"
    ):
        OpenSet(Tap(network), ODIN()).calibrate(extract(Tap(network), known))


def test_loaded_from_the_folder_or_from_its_one_file(network, known, tmp_path):
    network.eval()
    network.head.bias.data -= network(known.tensors[0]).mean(0).detach()
    right = network(known.tensors[0]).argmax(1)
    known = torch.utils.data.TensorDataset(known.tensors[0], right)
    model = fitted(network, known, GeMOS("gaussian-mixture:components=1"))
    model.save(tmp_path / "m")
    images = torch.rand(30, 1, 8, 8)
    label, score = model(images)
    for path in (tmp_path / "m", tmp_path / "m" / "model.safetensors"):
        again = OpenSet.load(path)
        assert torch.equal(again(images)[0], label)
        assert torch.equal(again(images)[1], score)
        assert again.classes == ["a", "b", "c"]
        assert again.adapter == model.adapter
        assert again.threshold == model.threshold


def test_saving_again_replaces_a_model_but_nothing_else(network, known, tmp_path):
    model = fitted(network, known)
    model.save(tmp_path / "m")
    model.save(tmp_path / "m")
    (tmp_path / "m" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"already holds thesis.txt"):
        model.save(tmp_path / "m")
    assert (tmp_path / "m" / "thesis.txt").read_text() == "mine"


def test_a_network_of_ones_own_is_passed_again(known, tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    model = OpenSet(Tap(network), Energy()).calibrate(known)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"OpenSet.load\(path, network=…\)"):
        OpenSet.load(tmp_path / "m")
    fresh = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    again = OpenSet.load(tmp_path / "m", network=fresh)
    assert torch.equal(again(known.tensors[0])[1], model(known.tensors[0])[1])


def test_a_network_of_another_shape_is_refused(network, known, tmp_path):
    fitted(network, known).save(tmp_path / "m")
    with pytest.raises(ValueError, match="does not fit the network"):
        OpenSet.load(tmp_path / "m", network=networks.cnn(3, 1, widths=(5, 6), hidden=8))


@pytest.fixture
def folder(network, known, tmp_path):
    fitted(network, known).save(tmp_path / "m")
    return tmp_path / "m"


def test_a_missing_file_is_named(folder):
    (folder / "model.json").unlink()
    with pytest.raises(ValueError, match=r"model.json is missing"):
        OpenSet.load(folder)
    with pytest.raises(ValueError, match=r"holds no model.safetensors"):
        OpenSet.load(folder.parent)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"truncated|not the file"):
        OpenSet.load(folder)


def test_changed_weights_are_refused(folder):
    file = folder / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = {name: x + 1 if x.is_floating_point() else x for name, x in load_file(file).items()}
    save_file(tensors, file, metadata)
    with pytest.raises(ValueError, match=r"is not the file that .*model.json describes"):
        OpenSet.load(folder)


def test_a_changed_description_is_refused(folder):
    file = folder / "model.json"
    description = json.loads(file.read_text())
    description["threshold"]["values"] = [1e9]
    file.write_text(json.dumps(description))
    with pytest.raises(ValueError, match="was changed after it was written"):
        OpenSet.load(folder)


def test_a_planted_pickle_is_never_run(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="no model of openset"):
        OpenSet.load(folder)
    assert not (tmp_path / "exploded").exists()


def test_code_named_in_a_file_is_not_imported_unless_trusted(folder, network):
    file = folder / "model.safetensors"
    with safe_open(file, "pt") as opened:
        description = json.loads(opened.metadata()["openset"])
    description["detector"]["name"] = "os:system"
    save_file(load_file(file), file, {"openset": json.dumps(description)})
    with pytest.raises(ValueError, match="trust"):
        OpenSet.load(file)


def test_a_model_saved_when_a_fit_changed_the_setting_layers_still_loads(network, known, tmp_path):
    model = fitted(network, known)
    model.save(tmp_path / "now")
    file = tmp_path / "then.safetensors"
    tensors = load_file(tmp_path / "now" / "model.safetensors")
    found = json.loads(bytes(tensors.pop("detector.found_layers").tolist()))
    description = model.describe()
    del description["state"]
    assert description["detector"]["settings"]["layers"] is None
    description["detector"]["settings"]["layers"] = found
    save_file(tensors, file, metadata={"openset": json.dumps(description)})
    images = known.tensors[0]
    for path in (tmp_path / "now", file):
        again = OpenSet.load(path)
        assert tuple(again.detector.layers_read) == model.detector.layers_read
        assert torch.equal(again(images)[1], model(images)[1])


def test_prediction_answers_as_the_model_does(network, pictures):
    model = OpenSet(Tap(network), Energy(), adapter=Adapter((8, 8), 1))
    model.set_threshold(Threshold((-1e9, 1e9, -1e9), 0.5, (1, 1, 1)))
    found = opened(model, pictures)
    records = [answer.record() for answer in model.predict(pictures)]
    image = torch.stack([found.images[i][0] for i in range(len(found))])
    label, score = model(image)
    predicted = network.eval()(image).argmax(1).tolist()
    for i, record in enumerate(records):
        assert record["score"] == pytest.approx(float(score[i]), rel=1e-5)
        assert record["label"] == ("unknown" if label[i] == UNKNOWN else str(int(label[i])))
        assert record["threshold"] == model.threshold.values[predicted[i]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given", [False, True])
def test_a_network_keeps_its_precision(known, dtype, given, tmp_path):
    network = networks.cnn(classes=3, channels=1, widths=(4, 6), hidden=8).to(dtype)
    model = OpenSet(Tap(network), Energy()).calibrate(known, 0.9)
    assert {x.dtype for x in network.parameters()} == {dtype}
    model.save(tmp_path / "model")
    other = networks.cnn(classes=3, channels=1, widths=(4, 6), hidden=8) if given else None
    again = OpenSet.load(tmp_path / "model", network=other)
    assert {x.dtype for x in again.tap.network.parameters()} == {dtype}
    image = known.tensors[0]
    assert torch.equal(again(image)[1], model(image)[1])
    assert again(image)[1].dtype in (torch.float32, torch.float64)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda n: torch.compile(n, backend="eager")])
def test_a_saved_wrapper_loads_into_the_bare_network_and_back(known, wrap, tmp_path):
    network = networks.cnn(classes=3, channels=1, widths=(4, 6), hidden=8)
    image = known.tensors[0]
    for saved, loaded in ((wrap(network), network), (network, wrap(network))):
        model = OpenSet(Tap(saved, ["stage1"]), Energy()).calibrate(known, 0.9)
        model.save(tmp_path / "model")
        for given in (None, loaded):
            again = OpenSet.load(tmp_path / "model", network=given)
            torch.testing.assert_close(again(image), model(image))


def test_stages_that_were_found_are_saved(known, tmp_path):
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 6, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(6, 3),
    )
    tap = Tap(network, ["stage1"])
    OpenSet(tap, Energy()).calibrate(known, 0.9).save(tmp_path / "model")
    told = json.loads((tmp_path / "model" / "model.json").read_text())["tap"]
    assert told == {"layers": {"stage1": tap.paths["stage1"]}, "head": "2"}
    again = OpenSet.load(tmp_path / "model", network=network)
    assert again.tap.paths == tap.paths
