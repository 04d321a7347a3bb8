"""A saved model says in its card what it is, and travels by the names of Hugging Face's mixin."""

import inspect
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from torch import nn

from openset import OpenSet, Tap, networks
from openset.data import Adapter
from openset.detectors import Energy
from openset.model.card import card
from openset.runs.run import load_model
from openset.scoring.threshold import SEEN


@pytest.fixture
def model():
    network = networks.cnn(classes=3, channels=1, widths=(4, 4), hidden=8)
    names = ["cat", "<script>", "a|b_c"]
    model = OpenSet(Tap(network), Energy(), classes=names, adapter=Adapter((8, 8), 1))
    return model.calibrate([(torch.rand(100, 1, 8, 8), torch.arange(100) % 3)])


def same(model, other):
    image = torch.rand(5, 1, 8, 8)
    return all(torch.equal(a, b) for a, b in zip(model(image), other(image), strict=True))


def test_the_card_of_a_run_says_what_the_hub_reads(run):
    model = load_model(run, "energy")
    read = ModelCard.load(run / "models" / "energy" / "README.md")
    assert read.data.library_name == "openset"
    assert read.data.pipeline_tag == "image-classification"
    (result,) = read.data.eval_results
    assert result.metric_type == "accuracy"
    assert f"{result.metric_value:.2%} on test" in model.about["Accuracy"]
    assert result.dataset_name == "digits"
    assert read.validate is not None
    for said in (
        model.threshold.guarantee(), "Data: digits", "trained with cross-entropy",
        "Chosen on: known data alone", "SHA-256 of the tensors: ", "torch 2",
    ):  # fmt: skip
        assert said.replace("_", "\\_") in read.text, said


def test_a_card_shows_names_as_they_are(model, tmp_path):
    model.doubt(SEEN).about = {"Data": "ylecun/mnist:train", "Accuracy": "98.10% on test"}
    model.detector.tuned_on = ("tanganke/kmnist",)
    model.save(tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    read = ModelCard(text)
    assert read.data.datasets == ["ylecun/mnist"]
    assert "\\<script\\>, a\\|b\\_c" in read.text
    assert "<script>" not in read.text
    assert "Chosen on: tanganke/kmnist" in read.text
    assert f"No guarantee holds: {SEEN}" in read.text
    assert OpenSet.load(tmp_path / "model").about == model.about
    bare = OpenSet(Tap(nn.Sequential(nn.Flatten(), nn.Linear(64, 2))), Energy())
    assert "No threshold is set" in card(bare.describe(), "0")
    assert "not built by openset" in card(bare.describe(), "0")


def test_a_model_travels_through_a_local_folder(model, tmp_path):
    assert model.save_pretrained(tmp_path / "digits") is None
    assert same(model, OpenSet.from_pretrained(tmp_path / "digits"))
    with pytest.raises(ValueError, match="no folder here, and the hub gives no such model"):
        OpenSet.from_pretrained(tmp_path / "nowhere" / "at" / "all")


def test_a_model_travels_through_the_hub(model, tmp_path, monkeypatch):
    hub, seen = tmp_path / "hub", {}

    class Api:
        def __init__(self, token):
            seen["token"] = token

        def create_repo(self, name, private, exist_ok):
            assert exist_ok
            return SimpleNamespace(repo_id=f"me/{name}")

        def upload_folder(self, *, repo_id, folder_path, **options):
            shutil.copytree(folder_path, hub / repo_id)
            seen.update(options)
            return f"https://hub/{repo_id}"

    def download(name, allow_patterns, **options):
        assert set(allow_patterns) == {file.name for file in (hub / name).iterdir()}
        seen.update(options)
        return str(hub / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    how = {"token": "t", "branch": "b"}
    assert (
        model.save_pretrained(tmp_path / "cats", push_to_hub=True, **how) == "https://hub/me/cats"
    )
    assert same(model, OpenSet.from_pretrained("me/cats", revision="b"))
    assert (seen["token"], seen["revision"]) == ("t", "b")


@pytest.mark.parametrize("name", ["save_pretrained", "push_to_hub", "from_pretrained"])
def test_options_are_called_as_those_of_the_mixin(name):
    own = inspect.signature(getattr(OpenSet, name)).parameters
    its = inspect.signature(getattr(ModelHubMixin, name)).parameters
    assert own.keys() - {"network", "trust", "options"} <= its.keys()
