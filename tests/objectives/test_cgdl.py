"""CGDL: the ladder's products and divergences, the loss, and what a tap reads of it."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from openset.extractors.tap import Tap
from openset.networks import cnn, gaussian_ladder, vgg13
from openset.networks.heads.gaussian_ladder import Gaussian
from openset.objectives import CGDL
from openset.objectives.cgdl import kl

IMAGE = torch.linspace(0, 1, 1280).sin().view(5, 1, 16, 16)


def small(widths=(4, 8)):
    torch.manual_seed(0)
    return cnn(classes=3, channels=1, widths=widths, hidden=8)


def random(rows=6, dim=4):
    return Gaussian(torch.randn(rows, dim), torch.rand(rows, dim) + 0.1)


def test_divergences_are_those_of_torch():
    q, p = random(), random()
    expected = kl_divergence(Normal(q.mean, q.variance.sqrt()), Normal(p.mean, p.variance.sqrt()))
    torch.testing.assert_close(kl(q, p), expected.sum(1))


def test_a_product_is_that_of_the_densities():
    q, p = random(), random()
    both = q.times(p)
    x = torch.randn(6, 4)

    def log_p(gaussian, x):
        return Normal(gaussian.mean, gaussian.variance.sqrt()).log_prob(x)

    # Proportional densities: the difference of logarithms is the same everywhere.
    apart = [log_p(q, y) + log_p(p, y) - log_p(both, y) for y in (x, torch.zeros(6, 4))]
    torch.testing.assert_close(*apart, rtol=1e-4, atol=1e-4)


def test_a_product_with_what_says_nothing_is_the_other_factor():
    q = random()
    alone = q.times(Gaussian(torch.randn(6, 4), torch.full((6, 4), torch.inf)))
    torch.testing.assert_close(alone, q)


def test_the_loss_is_that_of_the_equation():
    objective = CGDL(small(widths=(4, 8, 8)), weight=20.0, dim=5, side=6, width=4, beta_epochs=4)
    objective.eval().start_epoch(1)
    network, label = objective.network, torch.arange(5) % 3
    torch.manual_seed(3)
    [(_, loss)] = objective.step(IMAGE, label)

    torch.manual_seed(3)
    body = network.network
    first, second, third = body.maps(IMAGE)
    features = body.neck(third)

    def gaussian(numbers):
        mean, rho = numbers.chunk(2, dim=1)
        return Normal(mean, (F.softplus(rho) + 1e-4).sqrt())

    top = gaussian(torch.cat([network.mean(features), network.rho(features)], dim=1))
    z = above = top.mean + top.stddev * torch.randn(5, 5)
    divergence = kl_divergence(top, Normal(network.centres[label], 1.0)).sum(1)
    for rung, x in ((network.rungs[1], second), (network.rungs[0], first)):
        seen, expected = gaussian(rung.up(x)), gaussian(rung.down(above))
        precision = 1 / seen.variance + 1 / expected.variance
        mean = (seen.mean / seen.variance + expected.mean / expected.variance) / precision
        q = Normal(mean, precision.rsqrt())
        above = q.mean + q.stddev * torch.randn(5, 6)
        divergence = divergence + kl_divergence(q, expected).sum(1)
    again = network.decoder.draw(above, (16, 16))
    unit = network.normalize
    drawn = (unit(again) - unit(IMAGE)).square().sum((1, 2, 3)).mean()
    right = -network.head(z).log_softmax(1)[torch.arange(5), label].mean()
    expected = (drawn + 0.5 * divergence.mean() + 20 * right) / 20
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_beta_rises_to_one_and_is_part_of_a_checkpoint():
    objective = CGDL(small(), beta_epochs=4)
    found = []
    for epoch in range(6):
        objective.start_epoch(epoch)
        found.append(objective.beta.item())
    assert found == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert objective.state_dict()["beta"] == 1.0


def test_a_tap_reads_the_same_latent_and_error_each_time():
    network = gaussian_ladder(small(), dim=5).eval()
    network.normalize.std.fill_(0.25)
    seen, again = (Tap(network, ["mean", "error"])(IMAGE).features for _ in range(2))
    assert all(seen[name].equal(again[name]) for name in seen)
    assert seen["mean"].equal(seen["penultimate"])
    top, below = network.climb(IMAGE)
    lowest, _ = network.descend(top.mean, below, lambda gaussian: gaussian.mean)
    missed = (network.draw(lowest, (16, 16)) - IMAGE).square().mean((1, 2, 3)) * 16
    torch.testing.assert_close(seen["error"].squeeze(1), missed)


@pytest.mark.parametrize(
    ("network", "rungs"),
    [(cnn(classes=3, widths=(8,)), 0), (vgg13(classes=3, dropout=0.0), 4)],
)
def test_there_is_a_rung_for_every_stage_but_the_last(network, rungs):
    wrapped = gaussian_ladder(network, dim=4, side=3, width=4).eval()
    assert len(wrapped.rungs) == rungs
    seen = Tap(wrapped, ["mean", "error"])(torch.rand(2, 3, 40, 24))
    assert seen.features["mean"].shape == (2, 4)
    assert seen.features["error"].shape == (2, 1)


def test_it_refuses_what_has_no_stages_and_what_is_out_of_range():
    with pytest.raises(ValueError, match="latents at every stage need a network in stages"):
        gaussian_ladder(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    with pytest.raises(ValueError, match="weight"):
        CGDL(small(), weight=0)
    with pytest.raises(ValueError, match="beta_epochs"):
        CGDL(small(), beta_epochs=0)
