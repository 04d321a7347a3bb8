import pytest
import torch
from scipy import stats

from openset.activations import UNKNOWN
from openset.data import Adapter, load, load_images


@pytest.mark.parametrize("kind", ["gaussian-noise", "uniform-noise"])
def test_noise_takes_size_and_channels_from_the_adapter(kind):
    noise = load_images(f"{kind},limit=5", Adapter((6, 9), 3, invert=True))
    assert noise.images.shape == (5, 3, 6, 9)
    assert noise.labels.tolist() == [UNKNOWN] * 5
    assert noise.name == kind
    assert not noise.adapter.invert
    assert len(load_images(kind, Adapter((6, 9), 3))) == 10_000


def test_pixels_follow_their_distribution():
    adapter = Adapter((32, 32), 3)
    gaussian = load_images("gaussian-noise,limit=50", adapter).images.flatten().double() / 255
    assert (gaussian == 0).double().mean() == pytest.approx(stats.norm.cdf(-0.5), abs=0.01)
    assert (gaussian == 1).double().mean() == pytest.approx(stats.norm.cdf(-0.5), abs=0.01)
    assert (gaussian < 0.7).double().mean() == pytest.approx(stats.norm.cdf(0.2), abs=0.01)
    uniform = load_images("uniform-noise,limit=50", adapter).images.flatten().double() / 255
    assert stats.kstest(uniform.numpy(), "uniform").statistic < 0.01


def test_the_seed_alone_decides():
    adapter = Adapter((4, 4), 1)
    before = torch.get_rng_state()
    one = load_images("gaussian-noise,limit=6", adapter, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    same = load_images("gaussian-noise,limit=6", adapter, seed=1)
    other = load_images("gaussian-noise,limit=6", adapter, seed=2)
    named = load_images("gaussian-noise,limit=6,seed=0", adapter, seed=1)
    assert torch.equal(one.images, same.images)
    assert one.fingerprint == same.fingerprint
    assert len({one.fingerprint, other.fingerprint, named.fingerprint}) == 3
    assert not torch.equal(one.images, other.images)
    assert not torch.equal(one.images[0], one.images[1])
    assert torch.equal(one.read([3, 2])[0], one.images[[3, 2]])
    assert one.subset([]).images.shape == (0, 1, 4, 4)
    assert one.paths[2] == "gaussian-noise[2]"


def test_noise_is_added_to_a_data_set_and_cut_off_at_white():
    plain = load_images("digits", Adapter((8, 8), 1))
    noisy = load_images("digits,noise=0.5", plain.adapter)
    assert noisy.name == "digits,noise=0.5"
    assert noisy.fingerprint != plain.fingerprint
    added = (noisy.images.double() - plain.images) / 255
    assert added.min() >= 0
    assert added.max() <= 0.5 + 0.5 / 255
    dark = plain.images < 120
    assert stats.kstest(added[dark].numpy() / 0.5, "uniform").statistic < 0.02
    assert torch.equal(noisy.read([7, 3])[0], noisy.images[[7, 3]])
    assert torch.equal(noisy.images, load_images("digits,noise=0.5", plain.adapter).images)
    other = load_images("digits,noise=0.5,seed=1", plain.adapter)
    assert not torch.equal(noisy.images, other.images)
    assert other.fingerprint != noisy.fingerprint


def test_a_noisy_set_can_be_trained_on_and_needs_an_amount():
    assert (load("digits,noise=1").train.images > 0).double().mean() > 0.9
    for wrong in ("digits,noise=0", "digits,noise=much", "uniform-noise,noise=1"):
        with pytest.raises(ValueError, match="noise"):
            load_images(wrong, Adapter((8, 8), 1))
