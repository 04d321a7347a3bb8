"""CVAECapOSR: routing, places of the classes, and what is learned from them."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from openset.extractors.tap import Tap
from openset.networks import capsules, cnn
from openset.networks.heads.capsules import PLACE, Targets, route, squash
from openset.objectives import CVAECapOSR


def small():
    torch.manual_seed(0)
    return cnn(classes=3, channels=1, widths=(4, 8), hidden=8)


def probabilities(mean, variance=0.5):
    log_sigma = torch.full_like(mean, variance).log() / 2
    divergence = Targets(variance)(mean, log_sigma)
    return divergence, (-divergence.clamp_min(1e-6).log()).softmax(1)


def test_divergences_are_those_of_torch():
    mean, log_sigma = 3 * torch.randn(5, 4, 6), torch.randn(5, 4, 6)
    found = Targets(0.3)(mean, log_sigma)
    for k in range(4):
        place = torch.zeros(4, 6)
        place[k] = PLACE
        target = Normal(place, torch.full((4, 6), 0.3**0.5))
        expected = kl_divergence(Normal(mean, log_sigma.exp()), target).sum((1, 2))
        torch.testing.assert_close(found[:, k], expected, rtol=1e-4, atol=1e-3)


def test_at_a_target_its_class_is_certain():
    mean = torch.zeros(1, 10, 8)
    mean[0, 4] = PLACE
    divergence, p = probabilities(mean)
    assert divergence[0, 4] == pytest.approx(0, abs=1e-4)
    assert p[0, 4] == pytest.approx(1, abs=1e-4)


def test_between_two_targets_and_at_the_origin_none_is():
    mean = torch.zeros(2, 10, 8)
    mean[0, :2] = PLACE / 2
    _, p = probabilities(mean)
    assert p[0].max() == pytest.approx(0.214, abs=1e-3)
    assert p[1].max() == pytest.approx(0.1, abs=1e-6)


def test_votes_are_shared_among_classes_and_agreement_draws_them():
    votes = 0.1 * torch.randn(2, 20, 4, 6)
    votes[:, :, 1] += 1.0
    whole, share = route(votes)
    torch.testing.assert_close(share.sum(2), torch.ones(2, 20))
    assert (share[:, :, 1] > 0.25).all()
    assert (whole.norm(dim=2) < 1).all()


def test_squashing_has_a_gradient_at_zero():
    x = torch.zeros(1, 3, requires_grad=True)
    squash(x, 1).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_a_tap_reads_the_divergence_whose_log_are_the_logits():
    network, image = capsules(small(), dim=5).eval(), torch.rand(4, 1, 16, 16)
    seen = Tap(network, ["divergence"])(image)
    torch.testing.assert_close(seen.logits, -seen.features["divergence"].log())


def test_it_refuses_what_is_no_backbone():
    with pytest.raises(ValueError, match="need a network in stages"):
        capsules(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    with pytest.raises(ValueError, match="variance is 0"):
        CVAECapOSR(small(), variance=0)
