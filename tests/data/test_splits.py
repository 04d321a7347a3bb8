import os

import pytest
import torch

from openset.activations import UNKNOWN, VOID
from openset.data import Adapter, ImageSet, load, load_images, mean_std

slow = pytest.mark.slow


@pytest.fixture
def real():
    if not os.environ.get("OPENSET_DATA"):
        pytest.skip("OPENSET_DATA is not set")


def rows(images: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images}


def test_known_and_unknown_digits_do_not_mix():
    everything = load("digits")
    data = load("digits", known_classes="5,0-3")
    assert data.classes == ["5", "0", "1", "2", "3"]
    assert data.train.labels.unique().tolist() == [0, 1, 2, 3, 4]
    assert data.unknown.labels.unique().tolist() == [UNKNOWN]
    assert len(data.test) + len(data.unknown) == len(everything.test)
    expected = torch.tensor([1, 2, 3, 4, UNKNOWN, 0] + [UNKNOWN] * 4)[everything.test.labels]
    assert torch.equal(data.test.labels, expected[expected >= 0])
    assert torch.equal(data.unknown.images, everything.test.images[expected < 0])
    assert not rows(data.train) & rows(data.valid)
    assert not rows(data.train) & (rows(data.test) | rows(data.unknown))


def test_the_seed_decides_what_is_held_out_and_nothing_else():
    before = torch.get_rng_state()
    one, same, other = (load("digits", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert one.valid.fingerprint == same.valid.fingerprint != other.valid.fingerprint
    assert one.train.fingerprint == same.train.fingerprint != other.train.fingerprint
    assert one.test.fingerprint == other.test.fingerprint
    assert rows(one.train) | rows(one.valid) == rows(other.train) | rows(other.valid)


def test_what_is_held_out_does_not_depend_on_the_known_classes():
    everything, part = load("digits"), load("digits", known_classes="0-4")
    known = everything.valid.labels < 5
    assert torch.equal(part.valid.images, everything.valid.images[known])


def test_valid_is_a_share_of_each_class():
    data = load("digits", valid=0.25)
    total = data.train.labels.bincount() + data.valid.labels.bincount()
    assert (data.valid.labels.bincount() - total * 0.25).abs().max() <= 0.5
    assert len(load("digits", valid=0).valid) == 0
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        load("digits", valid=1.5)


def test_the_way_of_resizing_or_a_whole_adapter_is_declared_once():
    data = load("digits", size=(6, 4), resize="shorter", interpolation="nearest")
    cut = Adapter((6, 4), 1, resize="shorter", interpolation="nearest")
    assert data.adapter == data.test.adapter == cut
    again = load("digits", adapter=cut)
    assert torch.equal(again.test.images, data.test.images)
    assert load_images("digits", cut)[0][0].shape == (1, 6, 4)


def test_size_and_channels_are_declared_once():
    data = load("digits", size=28, channels=3)
    assert data.adapter.shape == (3, 28, 28)
    for part in (data.train, data.valid, data.test, data.unknown):
        assert part.adapter == data.adapter
    image, _ = data.test[0]
    assert image.shape == (3, 28, 28)
    assert torch.equal(image[0], image[1])
    assert load("digits", size=(4, 6)).adapter.size == (4, 6)


def test_a_class_without_training_images_is_named():
    with pytest.raises(ValueError, match="digits has no training image of"):
        load("digits,limit=5", valid=0)


@slow
@pytest.mark.usefixtures("real")
def test_mnist_has_its_published_statistics():
    data = load("ylecun/mnist", valid=0)
    assert [len(data.train), len(data.test)] == [60_000, 10_000]
    mean, std = mean_std(data.train)
    assert mean == pytest.approx([0.1307], abs=5e-5)
    assert std == pytest.approx([0.3081], abs=5e-5)


@slow
@pytest.mark.usefixtures("real")
def test_cifar10_has_its_published_statistics():
    data = load("uoft-cs/cifar10", known_classes="cat,dog,0-1")
    assert data.classes == ["cat", "dog", "airplane", "automobile"]
    assert [len(data.train), len(data.valid)] == [18_000, 2_000]
    assert [len(data.test), len(data.unknown)] == [4_000, 6_000]
    mean, std = mean_std(load("uoft-cs/cifar10", valid=0).train)
    assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert std == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)


@slow
@pytest.mark.usefixtures("real")
def test_unknown_sets_are_brought_to_the_run():
    adapter = load("ylecun/mnist").adapter
    omniglot = load_images("brendenlake/omniglot", adapter)
    assert omniglot.images.shape == (13_180, 1, 28, 28)
    assert omniglot.images.float().mean() < 30  # light strokes on dark, as MNIST
    kmnist = load_images("tanganke/kmnist", adapter)
    assert len(kmnist) == 10_000
    assert not kmnist.adapter.invert
    colour = load("uoft-cs/cifar10").adapter
    for name, count in [("isun", 8925), ("tiny-imagenet-crop", 4000), ("ylecun/mnist", 10_000)]:
        images = load_images(name, colour)
        assert len(images) == count
        assert images.subset(range(3)).images.shape == (3, 3, 32, 32)


@slow
@pytest.mark.usefixtures("real")
def test_segmentation_sets_have_their_published_classes():
    data = load("camvid", known_classes="0-8")
    assert [len(data.train), len(data.valid), len(data.test)] == [367, 101, 233]
    assert data.classes == [
        "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car",
    ]  # fmt: skip
    assert data.train.labels.unique().tolist() == [VOID, *range(9)]
    assert data.test.labels.unique().tolist() == [VOID, UNKNOWN, *range(9)]
    anomalies = load_images("road-anomaly", data.adapter)
    assert anomalies.labels.unique().tolist() == [UNKNOWN, 0]
    assert anomalies.labels.shape == (60, 180, 240)
    more = load_images("segmentmeifyoucan-roadanomaly21", data.adapter)
    assert more.labels.unique().tolist() == [VOID, UNKNOWN, 0]
