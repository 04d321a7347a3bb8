"""`OpenSet.predict` on whatever holds pictures, and the threshold after the fact."""

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.stats import false_discovery_control
from torch import nn

from openset import UNKNOWN, OpenSet, Tap, networks
from openset.data import Adapter, ImageSet
from openset.detectors import Energy
from openset.model.predict import COLUMNS, Answer
from openset.scoring.held_out import HeldOut
from openset.scoring.threshold import SEEN


@pytest.fixture
def held_out():
    return torch.rand(400, 1, 8, 8), torch.arange(400) % 3


@pytest.fixture
def model(held_out):
    network = networks.cnn(classes=3, channels=1, widths=(4, 4), hidden=8)
    with torch.no_grad():  # So that it takes some image for each class.
        network.eval().head.bias -= network(held_out[0]).mean(0)
    model = OpenSet(Tap(network), Energy(), classes=["a", "b", "c"], adapter=Adapter((8, 8), 1))
    return model.calibrate([held_out], accept=0.9)


def same(answers, others):
    plain = [(a.label, a.nearest, round(a.score, 4), round(a.threshold, 4)) for a in answers]
    return plain == [(a.label, a.nearest, round(a.score, 4), round(a.threshold, 4)) for a in others]


def test_every_form_of_a_picture_gets_the_same_answer(model, pictures):
    files = sorted(pictures.iterdir())
    by_folder = model.predict(pictures)
    assert [answer.path for answer in by_folder] == list(map(str, files))
    opened = [Image.open(file) for file in files]
    forms = {
        "text": str(pictures),
        "paths": files,
        "glob": [str(pictures / "?.png"), str(pictures / "*.jpg")],
        "PIL": opened,
        "bytes": [file.read_bytes() for file in files],
        "arrays": [np.asarray(picture) for picture in opened],
        "tensors": [torch.from_numpy(np.array(picture)[None]) for picture in opened[:4]],
        "batch of arrays": np.stack([np.asarray(picture)[..., None] for picture in opened[:4]]),
        "batch of tensors": torch.stack(
            [torch.from_numpy(np.array(picture))[None] / 255 for picture in opened[:4]]
        ),
        "set": ImageSet(torch.stack([torch.from_numpy(np.array(p))[None] for p in opened[:4]])),
        "mixed": [opened[0], files[1], [files[2].read_bytes(), np.asarray(opened[3])]],
    }
    expected = sorted(by_folder, key=lambda answer: not answer.path.endswith("png"))
    for form, given in forms.items():
        found = sorted(model.predict(given), key=lambda a: not (a.path or "png").endswith("png"))
        if form in ("PIL", "bytes", "arrays", "paths", "text"):
            assert same(model.predict(given), by_folder), form
        else:
            assert same(found, expected[: len(found)]), form
            assert len(found) >= 4, form
    (one,) = model.predict(files[0])
    assert same([one], by_folder[:1])
    assert model.predict(opened[0])[0].path is None
    assert model.predict([]) == []


def test_an_answer_says_all_that_the_model_knows(model, held_out):
    images = torch.rand(50, 1, 8, 8)
    label, score = model(images)
    logits = model.tap(images).logits.detach()
    calibrated = model(held_out[0])[1]
    for i, answer in enumerate(model.predict(images, probabilities=True, batch_size=16)):
        known = int(label[i]) != UNKNOWN
        assert answer.nearest == model.classes[int(logits[i].argmax())]
        assert answer.label == (answer.nearest if known else "unknown")
        assert answer.score == pytest.approx(float(score[i]), rel=1e-5)
        assert answer.margin == answer.threshold - answer.score
        assert (answer.margin >= 0) == known
        assert answer.probability == pytest.approx(float(logits[i].softmax(0).max()), abs=1e-5)
        assert answer.probabilities[answer.nearest] == answer.probability
        at_least = int((calibrated >= score[i]).sum())
        assert answer.p_value == pytest.approx((1 + at_least) / 401, abs=1 / 401)
        assert list(answer.record()) == [*COLUMNS, "p_a", "p_b", "p_c"]
    assert model.names(label) == [a.label for a in model.predict(images)]
    assert isinstance(hash(model.predict(images[:1])[0]), int)


@pytest.mark.parametrize("per_class", [False, True])
def test_images_are_judged_together(model, held_out, per_class):
    model.calibrate([held_out], accept=0.7, per_class=per_class)
    images = torch.cat([torch.rand(40, 1, 8, 8), torch.rand(40, 1, 8, 8) / 20])
    alone, found = model.predict(images), model.predict(images, fdr=0.3)
    q = false_discovery_control([answer.p_value for answer in alone])
    assert [answer.q_value for answer in found] == pytest.approx(q.tolist())
    for before, answer in zip(alone, found, strict=True):
        unknown = answer.q_value <= 0.3
        assert (answer.label == "unknown") == unknown
        assert (answer.score > answer.threshold) == unknown
        assert answer.margin == answer.threshold - answer.score
        assert (answer.nearest, answer.p_value) == (before.nearest, before.p_value)
    assert 0 < sum(answer.label == "unknown" for answer in found) < 80
    assert "q_value" in found[0].record()
    cautious = model.predict(images[:2], fdr=0.001)
    assert {answer.label for answer in cautious} <= set(model.classes)
    assert all(math.isinf(answer.threshold) for answer in cautious)


def test_images_are_judged_together_or_by_a_threshold(model):
    image = torch.rand(2, 1, 8, 8)
    for given in ({"accept": 0.8}, {"threshold": 1.0}):
        with pytest.raises(ValueError, match="and fdr each set the threshold; give one of them"):
            model.predict(image, fdr=0.1, **given)
    with pytest.raises(ValueError, match="fdr must lie between 0 and 1"):
        model.predict(image, fdr=1.0)
    model.held_out = HeldOut()
    with pytest.raises(ValueError, match="no held-out scores, so no p-values; fit it again"):
        model.predict(image, fdr=0.1)


def test_names_of_labels_never_pass_unknown_for_a_class(model):
    assert model.names(torch.tensor([[0, -1], [2, 1]])) == [["a", "unknown"], ["c", "b"]]
    assert model.names([2]) == ["c"]
    for label in (3, -2):
        with pytest.raises(ValueError, match="is the label of no class"):
            model.names([label])
    model.classes = None
    assert model.names(torch.tensor([1, -1])) == ["1", "unknown"]


@pytest.mark.parametrize("per_class", [False, True])
def test_another_share_needs_no_data(model, held_out, tmp_path, per_class):
    accept = 0.6
    model.calibrate([held_out], accept=0.7, per_class=per_class).doubt(SEEN)
    model.save(tmp_path / "model")
    again = OpenSet.load(tmp_path / "model")
    other = again.with_accept(accept)
    assert again.threshold == model.threshold
    wanted = OpenSet(model.tap, model.detector).calibrate(
        [held_out], accept=accept, per_class=per_class
    )
    assert other.threshold == wanted.threshold.doubted(SEEN)
    assert "accepts 60.0%" in other.threshold.guarantee()
    assert other.adapter == model.adapter
    images = torch.rand(50, 1, 8, 8)
    assert [a.label for a in again.predict(images, accept=accept)] == [
        a.label for a in other.predict(images)
    ]
    other.save(tmp_path / "other")
    assert OpenSet.load(tmp_path / "other").with_accept(0.7).threshold == model.threshold


def test_a_model_of_an_older_version_loads_and_says_what_it_lacks(model, tmp_path):
    model.save(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()["openset"])
    told["state"] = {k: x for k, x in told["state"].items() if not k.startswith("held_out.")}
    kept = {k: x for k, x in load_file(file).items() if not k.startswith("held_out.")}
    assert len(kept) < len(load_file(file))
    save_file(kept, tmp_path / "older.safetensors", {"openset": json.dumps(told)})
    older = OpenSet.load(tmp_path / "older.safetensors")
    image = torch.rand(1, 1, 8, 8)
    assert older.predict(image)[0].p_value is None
    assert same(older.predict(image), model.predict(image))
    with pytest.raises(ValueError, match="holds no held-out scores"):
        older.predict(image, accept=0.5)
    assert older.predict(image, threshold=-math.inf)[0].label == "unknown"


def test_a_threshold_by_hand_decides(model):
    images = torch.rand(20, 1, 8, 8)
    middle = sorted(a.score for a in model.predict(images))[9]
    answers = model.predict(images, threshold=middle)
    assert sum(a.label == "unknown" for a in answers) == 10
    assert {a.threshold for a in answers} == {middle}
    with pytest.raises(ValueError, match="give one of them"):
        model.predict(images, threshold=1.0, accept=0.5)


def test_what_is_no_picture_is_refused_in_a_sentence(model, tmp_path):
    broken = tmp_path / "a.png"
    broken.write_bytes(b"no image")
    refused = {
        "no image at": tmp_path / "none*.png",
        r"a\.png: it is no image": [broken],
        "a int is no picture": [3],
        "cannot read the image": b"no image",
        r"images\[1\]: a picture has shape": [np.zeros((9, 9), np.uint8), np.zeros((2, 2, 7))],
        "NaN": torch.full((1, 1, 8, 8), torch.nan),
    }
    for reason, images in refused.items():
        with pytest.raises(ValueError, match=reason):
            model.predict(images)
    for options in ({"batch_size": 0}, {"workers": 0}):
        with pytest.raises(ValueError, match="give at least 1"):
            model.predict([Image.new("L", (9, 9))], **options)


def test_a_model_without_adapter_takes_tensors_of_any_size():
    model = OpenSet(Tap(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())), Energy())
    (answer,) = model.predict(torch.rand(3, 9, 7))
    assert isinstance(answer, Answer)
    assert answer.nearest in "012"
    assert answer.p_value is None
    with pytest.raises(ValueError, match="does not say how an image file"):
        model.predict(Image.new("RGB", (4, 4)))
    with pytest.raises(ValueError, match="tensors differ in shape"):
        model.predict([torch.rand(3, 9, 7), torch.rand(3, 8, 7)])


def test_a_model_of_pixels_names_the_way_to_maps():
    model = OpenSet(Tap(nn.Conv2d(1, 3, 1)), Energy(), adapter=Adapter((8, 8), 1))
    with pytest.raises(ValueError, match=r"labels pixels.*openset predict MODEL IMAGES --out"):
        model.predict(torch.rand(1, 1, 8, 8))


def test_the_bytes_of_a_picture_may_come_from_memory(model):
    file = io.BytesIO()
    Image.new("L", (20, 20), 99).save(file, "PNG")
    assert same(model.predict(file.getbuffer()), model.predict(Image.new("L", (20, 20), 99)))
