"""From a trained network to a calibrated model in one call."""

import pytest
import torch
from torch import nn

import openset
from openset.detectors import KNN, Energy, Fusion
from openset.networks import cnn


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
