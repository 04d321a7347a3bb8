"""A class from twenty images: it is known afterwards, the others stay, and it can be taken back."""

import numpy as np
import onnxruntime
import pytest
import torch
from command_line import call, fails
from PIL import Image
from sklearn.datasets import load_digits

import openset
from openset import OpenSet
from openset.data import load
from openset.detectors import build
from openset.life.add_class import add_class, undo_class
from openset.model.export import export
from openset.model.fit import fit

DETECTORS = ["mahalanobis", "knn:k=5", "vmdls-b", "gemos:components=1"]


@pytest.fixture(scope="module")
def data():
    return load("digits", known_classes=range(6), valid=0.3)


@pytest.fixture(scope="module")
def models(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = openset.networks.cnn(classes=6, channels=1, widths=(8, 16), hidden=32)
        objective = openset.objectives.CrossEntropy(network)
        network = openset.train(objective, data.train, epochs=6, batch_size=32, lr=0.05)
    found = fit(network, {name: build(name) for name in DETECTORS}, data.train, data.valid)
    for model in found.values():
        model.classes, model.adapter = data.classes, data.adapter
    return found


def sevens():
    source = load_digits()
    own = torch.from_numpy(source.images[source.target == 7] / 16)[:, None].float()
    return own[:20], own[20:]


@pytest.mark.parametrize("name", DETECTORS)
def test_the_class_is_known_and_the_others_stay(models, data, name):
    model, (few, more) = models[name], sevens()
    added = add_class(model, "seven", few, data.valid)
    test = data.test.images.float() / 255
    before, after = model(test)[0], added.model(test)[0]
    assert (added.model(more)[0] == 6).float().mean() > 0.7
    right = [(label == data.test.labels).float().mean() for label in (before, after)]
    assert right[1] > right[0] - 0.08
    labels, scores = added.model(data.valid.images.float() / 255)
    nearest = added.model.judge(added.model.tap(data.valid.images.float() / 255))[0]
    assert added.moved == int((nearest == 6).sum())
    assert (scores <= model(data.valid.images.float() / 255)[1]).all()
    assert (labels >= 0).float().mean() >= 0.94
    assert added.accepted >= 14
    assert added.model.held_out.counts == [len(data.valid) + 20]
    assert f"learned from 20 images: of these {added.accepted}" in added.said()[0]


def same(model, other):
    x = sevens()[1]
    assert other.threshold == model.threshold
    assert other.classes == model.classes
    for one, two in zip(model(x), other(x), strict=True):
        assert torch.equal(one, two)
    mine, its = model.held_out.state_dict(), other.held_out.state_dict()
    assert all(torch.equal(mine[key], its[key]) for key in mine)


@pytest.mark.parametrize("name", DETECTORS)
def test_it_is_taken_back_exactly_after_save_and_load(models, tmp_path, name):
    model, (few, more) = models[name], sevens()
    one = add_class(model, "seven", few[:5]).model
    two = add_class(one, "another", 1 - few[:5]).model
    two.half().float() if name == "knn:k=5" else two.save(tmp_path / "model")
    loaded = two if name == "knn:k=5" else OpenSet.load(tmp_path / "model")
    assert loaded.predict(more)[0].record() == two.predict(more)[0].record()
    if name != "knn:k=5":
        same(two, loaded)
        same(one, undo_class(loaded))
    back = undo_class(undo_class(loaded))
    assert (back.threshold, back.classes) == (model.threshold, model.classes)
    assert torch.equal(back.held_out.knots, model.held_out.knots)
    assert type(back.detector) is type(model.detector)
    with pytest.raises(ValueError, match="nothing to undo"):
        undo_class(back)


def test_an_added_class_has_no_probability_and_goes_into_onnx(models, data, tmp_path):
    model = add_class(models["mahalanobis"], "seven", sevens()[0]).model
    answers = model.predict(torch.cat([sevens()[1], data.test.images.float() / 255]))
    for answer in answers:
        assert (answer.probability is None) == (answer.nearest == "seven")
        assert answer.p_value == pytest.approx(
            model.held_out.p_values(torch.tensor([answer.score]), torch.zeros(1).long()).item()
        )
    export(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    threshold = model.get_buffer("values").float().numpy()
    given = {"image": sevens()[1].numpy(), "threshold": threshold}
    label = session.run(["label"], given)[0]
    assert (label == model(sevens()[1])[0].numpy()).mean() > 0.98


def test_a_threshold_per_class_gets_one_more(data, models):
    old = models["knn:k=5"]
    model = OpenSet(old.tap, old.detector, classes=data.classes, adapter=data.adapter)
    model.calibrate(data.valid, accept=0.8, per_class=True)
    added = add_class(model, "seven", sevens()[0], data.valid).model
    assert len(added.threshold.values) == len(added.held_out.counts) == 7
    assert (added(sevens()[1])[0] == 6).float().mean() > 0.6


def test_what_cannot_be_added_is_refused(models, data):
    model = models["knn:k=5"]
    for name in ("3", "unknown"):
        with pytest.raises(ValueError, match="is taken; give the new class another"):
            add_class(model, name, sevens()[0])
    for name in ("", " ", "a\nb", "\x1b[31m"):
        with pytest.raises(ValueError, match="give the new class one that can be read"):
            add_class(model, name, sevens()[0])
    with pytest.raises(ValueError, match="2 images of seven; give at least 3, better 20"):
        add_class(model, "seven", sevens()[0][:2])
    with pytest.raises(ValueError, match="keeps no held-out scores"):
        add_class(OpenSet(model.tap, model.detector, classes=data.classes), "x", sevens()[0])
    bare = OpenSet(model.tap, model.detector).calibrate(data.valid)
    with pytest.raises(ValueError, match="does not name its classes"):
        add_class(bare, "seven", sevens()[0])


def test_the_command_adds_and_takes_back(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, image in enumerate(sevens()[0]):
        Image.fromarray(np.uint8(image[0] * 255)).save(f"{i}.png")
    detector = ("--detector", "gemos:components=1")
    call(
        "add-class", run, *(f"{i}.png" for i in range(20)), "--name", "7", "--out", "new", *detector
    )
    assert "held-out images of the other classes" in capsys.readouterr().err
    assert OpenSet.load("new").classes == [*"012345", "7"]
    call("predict", "new", "0.png")
    call("add-class", "new", "--undo", "--out", "old")
    assert OpenSet.load("old").classes == [*"012345"]
    given = ("--out", "x")
    capsys.readouterr()
    for wrong in (("0.png", *given), ("--name", "7", *given)):
        assert "give the new class's --name" in fails(capsys, "add-class", "new", *wrong)
    assert "no name and no images" in fails(
        capsys, "add-class", "new", "--undo", "--name", "7", *given
    )
    assert "names no group" in fails(
        capsys, "add-class", "new", "--group", "nowhere:1", "--name", "8", *given
    )
