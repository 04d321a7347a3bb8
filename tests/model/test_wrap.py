"""From a trained network to a calibrated model in one call."""

import copy
import warnings
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import openset
from openset.detectors import KNN, Energy, Fusion
from openset.networks import cnn
from openset.networks.external import import_library


@pytest.fixture(scope="module")
def data():
    return openset.data.load("digits", known_classes=range(6), valid=0.2)


@pytest.fixture(scope="module")
def network(data):
    network = cnn(6, 1, widths=(8, 16), hidden=32)
    images = openset.objectives.CrossEntropy(network)
    return openset.train(images, data, epochs=4, optimizer="adam", lr=0.01, batch_size=32)


def test_a_network_becomes_a_model_that_is_saved_and_loaded(data, network, tmp_path):
    before = {key: x.clone() for key, x in network.state_dict().items()}
    model = openset.wrap(network, data.train, data.valid, classes=data.classes)
    assert model.name == "fusion"
    assert model.threshold.accept == 0.95
    assert model.adapter == data.adapter
    assert all(torch.equal(x, before[key]) for key, x in network.state_dict().items())
    accepted = sum(int((model(x)[0] >= 0).sum()) for x, _ in data.test.batches(256))
    low, high = model.threshold.coverage
    assert low - 0.03 <= accepted / len(data.test) <= high + 0.03
    model.save(tmp_path / "model")
    again = openset.OpenSet.load(tmp_path / "model")
    assert again.classes == data.classes
    image = data.test[0][0][None]
    assert torch.equal(again(image)[1], model(image)[1])


def test_it_takes_what_people_have(data, network):
    pairs = [(x, y) for x, y in data.train.batches(100)]
    held = [{"image": x, "label": y} for x, y in data.valid.batches(100)]
    model = openset.wrap(network, pairs, held, KNN(k=3), 0.9, per_class=False, batch_size=64)
    assert model.threshold.accept == 0.9
    assert model.adapter is None
    assert model.name == "knn"


def test_layers_and_head_are_those_that_are_named(data, network):
    model = openset.wrap(network, data.train, data.valid, "mahalanobis", layers="stage2")
    assert model.tap.layers == ("stage2",)
    model = openset.wrap(network, data.train, data.valid, "energy", head="head")
    assert model.tap.head == "head"
    both = Fusion([Energy(), KNN()])
    openset.wrap(network, data.train, data.valid, both, layers=["stage1"])
    assert both.layers == ("stage1",)
    with pytest.raises(ValueError, match="energy reads the logits alone"):
        openset.wrap(network, data.train, data.valid, "energy", layers=["stage1"])


def test_the_same_images_may_not_serve_twice(data, network):
    with pytest.raises(ValueError, match="train and held_out are the same images"):
        openset.wrap(network, data.train, data.train)


def test_labels_and_names_must_be_the_networks(data, network):
    with pytest.raises(ValueError, match="5 class names for a network of 6 outputs"):
        openset.wrap(network, data.train, data.valid, classes=data.classes[:5])
    few = cnn(4, 1, widths=(8,), hidden=8)
    with pytest.raises(ValueError, match="labels are up to 5, and the network has the classes 0…3"):
        openset.wrap(few, data.train, data.valid)


def test_classes_in_another_order_are_noticed(data, network):
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, image):
            return self.network(image).roll(1, dims=1)

    with pytest.warns(UserWarning, match="not the labels' classes in this order"):
        openset.wrap(Turned(), data.train, data.valid, "energy")


CONFIG = {"input_size": (1, 8, 8), "mean": (0.3,), "std": (0.4,), "crop_pct": 1.0}
"""As timm's networks carry it about themselves."""


class Plain(nn.Module):
    """A network that wants its images normalised and leaves that to others, as timm's do."""

    def __init__(self, network, config=None):
        super().__init__()
        self.body = network
        if config is not None:
            self.pretrained_cfg = config

    def forward(self, image):
        return self.body(image)


@pytest.fixture
def wanting(network):
    """The network without the mean and deviation that it takes off itself."""
    wanting = copy.deepcopy(network)
    wanting.normalize = nn.Identity()
    return wanting


def test_what_a_network_says_of_its_preprocessing_is_done(data, wanting, tmp_path):
    told = Plain(wanting, CONFIG)
    batches = list(data.train.batches(128))
    model = openset.wrap(told, batches, data.valid, "energy")
    image = batches[0][0]
    torch.testing.assert_close(model(image)[1], -wanting((image - 0.3) / 0.4).logsumexp(1))
    assert model.adapter == openset.data.Adapter.of(CONFIG)
    model.save(tmp_path / "model")
    again = openset.OpenSet.load(tmp_path / "model", network=Plain(wanting))
    torch.testing.assert_close(again(image)[1], model(image)[1])


@pytest.mark.parametrize("by", ["adapter", "weights", "data"])
def test_the_adapter_says_it_too(data, wanting, by):
    adapter = openset.data.Adapter.of(CONFIG)
    train, given = data.train, adapter
    if by == "weights":
        given = SimpleNamespace(transforms=lambda: dict(CONFIG))
    elif by == "data":
        train, given = openset.data.load("digits", range(6), adapter=adapter).train, None
    model = openset.wrap(Plain(wanting), train, data.valid, "energy", adapter=given)
    image = data.train[0][0][None]
    torch.testing.assert_close(model(image)[1], -wanting((image - 0.3) / 0.4).logsumexp(1))
    plain = openset.data.Adapter((8, 8), 1)
    model = openset.wrap(Plain(wanting, CONFIG), train, data.valid, "energy", adapter=plain)
    torch.testing.assert_close(model(image)[1], -wanting(image).logsumexp(1))


def test_nothing_is_normalised_twice(data, wanting):
    inside = nn.Sequential(openset.networks.Normalize([0.3], [0.4]), wanting)
    adapter = openset.data.Adapter.of(CONFIG)
    for each in (inside, openset.networks.normalised(wanting, [0.3], [0.4])):
        model = openset.wrap(each, data.train, data.valid, "energy", adapter=adapter)
        assert model.tap.network is each


def test_layers_keep_the_names_that_the_network_gives_them(data, wanting):
    told = Plain(wanting, CONFIG)
    model = openset.wrap(told, data.train, data.valid, "knn", layers=["body.stage1"])
    assert model.tap.paths == {"body.stage1": "network.body.stage1"}


@pytest.mark.skipif(find_spec("timm") is None, reason="needs the extra `vision`")
def test_networks_of_other_libraries_get_the_images_that_they_want():
    timm, vision = import_library("timm"), import_library("torchvision").models
    label = torch.arange(64) % 4
    images = (torch.rand(64, 3, 64, 64) + label[:, None, None, None]) / 4
    train, held_out = [(images, label)], [(images.flip(0), label.flip(0))]
    ours = timm.create_model("resnet10t", pretrained=False, num_classes=4)
    theirs = vision.resnet18(num_classes=4)
    told = {"adapter": vision.ResNet18_Weights.DEFAULT, "accept": 0.9}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Neither network has learned anything.
        one = openset.wrap(ours, train, held_out, "msp", 0.9)
        other = openset.wrap(theirs, train, held_out, "msp", **told)
    for model, network in ((one, ours), (other, theirs)):
        mean = model.tap.network.normalize.mean.flatten()
        torch.testing.assert_close(mean, torch.tensor([0.485, 0.456, 0.406]))
        normal = (images - mean.view(-1, 1, 1)) / model.tap.network.normalize.std
        share = 1 - network.eval()(normal).softmax(1).amax(1)
        torch.testing.assert_close(model(images)[1], share)
    assert one.adapter is None  # The images are not of the size that timm speaks of.
    assert other.adapter.scaled == (256, 256)
