"""A saved model is data: what it says is looked up, checked and bounded, and never run."""

import copy
import json
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file, save_file

from openset import networks
from openset.data import Adapter
from openset.densities import DENSITIES
from openset.detectors import GeMOS, build
from openset.extractors.extract import extract
from openset.extractors.tap import Tap
from openset.model.open_set import OpenSet
from openset.model.saved import restore
from openset.scoring.views import layers_for

PLANTED = "planted_code.inner:Thing"
DENSITY = {
    "flow": "gemos:density=flow,epochs=1,transforms=1,hidden=4",
    "gaussian-mixture": "gemos:components=1",
    "local-outlier-factor": "gemos:density=local-outlier-factor,neighbours=3",
    "pca": "gemos:density=pca,components=2",
}
"""The settings that let a density work on the little data here."""

FREE = ("name", "guarantee", "coverage", "doubt", "layers", 0, 1, 2)
"""Where a text may be any: names and sentences."""


@pytest.fixture(scope="module")
def known():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(120, 1, 8, 8, generator=generator)


@pytest.fixture(scope="module")
def network(known):
    """A network that calls a third of the images each class."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.cnn(classes=3, channels=1, widths=(4, 6), hidden=8).eval()
    network.head.bias.data -= network(known).detach().mean(0)
    return network


def fitted(network, known, detector):
    detector = build(detector, autoencoder=networks.autoencoder(1, 8, width=4))
    tap = Tap(network, layers_for(network, [detector]))
    with torch.no_grad():
        labels = network(known).argmax(1)
    data = torch.utils.data.TensorDataset(known, labels)
    detector.fit(extract(tap, data))
    model = OpenSet(tap, detector, classes=["a", "b", "c"], adapter=Adapter((8, 8), 1))
    return model.calibrate(data, accept=0.8)


@pytest.fixture(scope="module")
def gemos(network, known, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    fitted(network, known, "gemos:components=1").save(folder)
    return folder


@pytest.fixture
def told(gemos):
    """The description of a saved model, for tests that change it."""
    text = json.loads((gemos / "model.json").read_text())
    del text["sha256"]
    return text


def resealed(gemos, told, path, change=lambda tensors: tensors):
    """A file alone, with another description or other tensors, and no seal."""
    tensors = change(load_file(gemos / "model.safetensors"))
    save_file(tensors, path, {"openset": json.dumps(told)})
    return path


def places(value, keys=()):
    yield keys
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(one, (*keys, key))


def changed(value, keys, new):
    if not keys:
        return new
    value = copy.copy(value)
    value[keys[0]] = changed(value[keys[0]], keys[1:], new)
    return value


@pytest.mark.parametrize("text", [PLANTED, f"gemos:density={PLANTED}", f"fusion:{PLANTED}+energy"])
def test_no_string_of_a_model_is_imported(gemos, told, tmp_path, monkeypatch, text):
    """A package that says when it is imported, named at each place of a description."""
    (tmp_path / "planted_code").mkdir()
    (tmp_path / "planted_code" / "__init__.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    for keys in places(told):
        path = resealed(gemos, changed(told, keys, text), tmp_path / "m.safetensors")
        with suppress(ValueError):
            OpenSet.load(path)
            assert keys[-1] in FREE, keys


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("detector", "settings", "density"), "pca"),
        (("detector", "settings", "density"), None),
        (("detector", "settings", "density", "settings", "components"), 1.5),
        (("detector", "settings", "density", "settings", "iterations"), -1),
        (("detector", "settings", "density", "kind"), "detector"),
        (("detector", "kind"), "density"),
        (("detector", "settings", "layers"), [1]),
        (("detector", "settings", "layers"), ["stage1", "logits"]),
        (("threshold", "values"), [1, 2]),
        (("threshold", "values"), []),
        (("threshold", "accept"), 5),
        (("threshold", "counts"), [1]),
        (("classes",), ["a", "b"]),
        (("classes",), ["a", "a", "b"]),
        (("classes",), ["a", "b", "unknown"]),
        (("classes",), "abc"),
        (("adapter", "size"), [60_000, 60_000]),
        (("adapter", "channels"), 3),
        (("tap", "layers"), ["no such"]),
        (("tap", "layers"), []),
        (("tap", "layers"), ["stage1", "stage2", "penultimate"]),
        (("tap", "layers", "logits"), "head"),
        (("tap", "head"), None),
        (("state", "held_out.sizes"), ["int64", True, True]),
        (("tap", "another"), 1),
        (("network", "hidden"), 10**6),
        (("network", "hidden"), 9),
        (("format",), 2),
        (("format",), True),
    ],
)
def test_a_value_that_no_model_has_is_one_sentence(gemos, told, tmp_path, keys, value):
    place = told
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(ValueError, match=r"m.safetensors"):
        OpenSet.load(resealed(gemos, told, tmp_path / "m.safetensors"))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: torch.full_like(x, torch.nan),
        lambda x: torch.full_like(x, torch.inf),
        lambda x: x[:-1],
        lambda x: x.half(),
        lambda x: x.flatten(),
    ],
)
@pytest.mark.parametrize("name", ["tap.network.head.weight", "detector.density.mean"])
def test_a_tensor_that_was_not_saved_is_one_sentence(gemos, told, tmp_path, name, change):
    tensors = load_file(gemos / "model.safetensors")
    assert name in tensors
    path = resealed(gemos, told, tmp_path / "m.safetensors", lambda x: {**x, name: change(x[name])})
    with pytest.raises(ValueError, match=r"m.safetensors"):
        OpenSet.load(path)


def test_a_flipped_bit_of_the_one_file_is_found(gemos, tmp_path):
    content = bytearray((gemos / "model.safetensors").read_bytes())
    content[-10] ^= 4
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="it is damaged, or was changed after it was written"):
        OpenSet.load(tmp_path / "m.safetensors")


def test_a_network_of_ones_own_takes_no_text_for_an_autoencoder():
    spec = {"kind": "detector", "name": "vmdls", "settings": {"autoencoder": "some/run"}}
    with pytest.raises(ValueError, match="autoencoder of detector vmdls is the text 'some/run'"):
        restore(spec)
    with pytest.raises(ValueError, match="was not built by openset"):
        restore({**spec, "settings": {"autoencoder": {"kind": "network", "spec": None}}})


@pytest.mark.parametrize("name", [*DENSITY, *sorted({*DENSITIES} - {*DENSITY})])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_density_answers_as_before_it_was_saved(network, known, tmp_path, name, dtype):
    own = copy.deepcopy(network).to(dtype)
    model = fitted(own, known.to(dtype), DENSITY.get(name, f"gemos:density={name}"))
    model.save(tmp_path / "m")
    again = OpenSet.load(tmp_path / "m")
    images = torch.rand(20, 1, 8, 8, dtype=dtype)
    for old, new in zip(model.eval()(images), again(images), strict=True):
        assert torch.equal(old, new)
    assert not again.training
    for key, x in model.state_dict().items():
        assert again.state_dict()[key].dtype == x.dtype, key


def test_half_precision_comes_back(network, known, tmp_path):
    model = fitted(copy.deepcopy(network).bfloat16(), known.bfloat16(), "energy")
    model.save(tmp_path / "m")
    again = OpenSet.load(tmp_path / "m")
    assert {x.dtype for x in again.tap.network.parameters()} == {torch.bfloat16}
    images = torch.rand(9, 1, 8, 8).bfloat16()
    assert torch.equal(again(images)[1], model.eval()(images)[1])


@pytest.mark.parametrize("name", ["vgg13", "resnet18", "wrn-16-2", "densenet-bc-100"])
def test_every_network_answers_as_before_it_was_saved(known, tmp_path, name):
    model = OpenSet(
        Tap(networks.build(name, classes=3, channels=1)),
        build("energy"),
        adapter=Adapter((8, 8), 1),
    )
    model.save(tmp_path / "m")
    again = OpenSet.load(tmp_path / "m")
    assert torch.equal(again(known[:4])[1], model.eval()(known[:4])[1])


def test_a_constructor_imports_nothing():
    with pytest.raises(ValueError, match="code outside openset"):
        GeMOS(PLANTED)
