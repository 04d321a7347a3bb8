"""The latent space on a backbone."""

import pytest
import torch
from torch import nn

from openset.extractors.tap import Tap
from openset.networks import cnn, from_spec, latent


def test_logits_are_the_log_posterior_of_isotropic_gaussians():
    network = latent(cnn(classes=5, channels=1, widths=(4, 4, 4)), size=3, variance=0.1).eval()
    network.centres.normal_()
    image = torch.rand(6, 1, 8, 8)
    mean, _ = network.encode(image)
    normal = torch.distributions.Normal(network.centres, 0.1**0.5)
    joint = normal.log_prob(mean[:, None]).sum(2)
    torch.testing.assert_close(network(image).softmax(1), joint.softmax(1))


def test_a_tap_reads_stages_g_and_mu():
    network = latent(cnn(classes=5, channels=1, widths=(4, 6, 8), hidden=16), size=3).eval()
    image = torch.rand(2, 1, 8, 8)
    features = Tap(network, network.stages)(image).features
    assert {name: x.shape[1] for name, x in features.items()} == {
        "network.stage1": 4,
        "network.stage2": 6,
        "network.stage3": 8,
        "mean": 3,
        "penultimate": 16,
    }
    torch.testing.assert_close(features["mean"], network.encode(image)[0])
    torch.testing.assert_close(features["penultimate"], network.network(image))
    aliased = Tap(network, ["stage1"])(image).features["stage1"]
    torch.testing.assert_close(aliased, features["network.stage1"])


def test_the_spec_makes_the_network_again():
    network = latent(cnn(classes=5, channels=1, widths=(4, 4, 4)), size=3).eval()
    again = from_spec(network.spec).eval()
    again.load_state_dict(network.state_dict())
    image = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(again(image), network(image))
    assert again.normalize is again.network.normalize


def test_a_network_of_ones_own_needs_no_spec():
    network = latent(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), size=2)
    assert network(torch.rand(5, 1, 2, 2)).shape == (5, 3)
    assert network.spec is None
    assert network.stages == ("mean",)


def test_a_network_without_a_linear_head_is_an_error():
    with pytest.raises(ValueError, match=r"last nn\.Linear"):
        latent(nn.Sequential(nn.Conv2d(1, 3, 1)))
