"""Networks of Hugging Face's transformers, against a small stand-in for the library."""

import json
import sys
from collections import OrderedDict
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

import openset
from openset.networks import build, from_spec


class Config(SimpleNamespace):
    def to_dict(self):
        return {**vars(self), "_name_or_path": "a/hub-id"}


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.classifier = nn.Linear(config.num_channels, config.num_labels)

    def forward(self, pixel_values):
        return OrderedDict(loss=None, logits=self.classifier(pixel_values.mean((2, 3))))


class AutoConfig:
    @staticmethod
    def from_pretrained(model, trust_remote_code=True, **changes):
        assert not trust_remote_code
        if model != "a/hub-id":
            raise OSError(f"{model} is not a folder")
        return Config(model_type="vit", architectures=["VitForImageClassification"], **changes)

    @staticmethod
    def for_model(model_type, **settings):
        assert "_name_or_path" not in settings
        return Config(model_type=model_type, **settings)


class AutoModelForImageClassification:
    @staticmethod
    def from_config(config):
        return Model(config)

    @staticmethod
    def from_pretrained(model, config, **_):
        network = Model(config)
        nn.init.constant_(network.classifier.weight, 0.5)
        return network


class AutoImageProcessor:
    @staticmethod
    def from_pretrained(model, trust_remote_code=True):
        return SimpleNamespace(image_mean=[0.5, 0.5, 0.5], image_std=[0.25, 0.25, 0.25])


@pytest.fixture
def library(monkeypatch):
    module = ModuleType("transformers")
    for kind in (AutoConfig, AutoModelForImageClassification, AutoImageProcessor):
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "transformers", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return module


def test_a_network_by_its_hub_id(library, tmp_path):
    network = build("transformers:a/hub-id,pretrained=true", classes=4)
    assert network.normalize.std.flatten().tolist() == [0.25] * 3
    assert network.network.classifier.weight.eq(0.5).all()
    model = openset.OpenSet(openset.Tap(network), openset.detectors.build("energy"))
    model.save(tmp_path / "model")
    again = openset.OpenSet.load(tmp_path / "model")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(again(images)[1], model(images)[1])


def test_a_saved_model_opens_neither_folder_nor_hub(library, monkeypatch):
    spec = build("transformers:a/hub-id", classes=4).spec
    monkeypatch.setattr(AutoConfig, "from_pretrained", None)
    assert from_spec(spec).spec == spec
    with pytest.raises(ValueError, match=r"missing 1 required .* 'config'"):
        from_spec({"name": "transformers", "model": "a/hub-id"})
    behind = json.dumps({**json.loads(spec["config"]), "backbone": "timm/resnet"})
    with pytest.raises(ValueError, match="rests on another network"):
        from_spec({**spec, "config": behind})


def test_a_name_that_is_nowhere_is_one_sentence(library):
    with pytest.raises(ValueError, match="cannot make transformers:b: b is not a folder"):
        build("transformers:b", classes=2)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="pip install transformers"):
        build("transformers:a", classes=2)
