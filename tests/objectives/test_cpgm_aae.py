"""CPGM-AAE: its loss against the equation, and its means."""

import pytest
import torch
from torch.nn import functional as F

from openset.networks import cnn, drawn_code
from openset.objectives import CPGMAAE
from openset.objectives.cpgm_aae import means

IMAGE, LABEL = torch.linspace(0, 1, 1536).sin().view(6, 1, 16, 16), torch.arange(6) % 3


def small():
    torch.manual_seed(0)
    return cnn(classes=3, channels=1, widths=(4, 8), hidden=8)


def loss_of(objective):
    (_, told), (_, loss) = objective.step(IMAGE, LABEL)
    return told, loss


def plain(network, weight):
    """The loss of an autoencoder that classifies, from its equation."""
    z, unit = network.mean(network.network(IMAGE)), network.normalize
    again = network.decoder.draw(z, (16, 16))
    drawn = (unit(again) - unit(IMAGE)).square().sum((1, 2, 3)).mean()
    right = -network.head(z).log_softmax(1)[torch.arange(6), LABEL].mean()
    return right + drawn / weight


def test_without_an_adversary_it_is_an_autoencoder_that_classifies():
    objective = CPGMAAE(small(), weight=30.0, adversarial=0.0, dim=5, width=4).eval()
    told, loss = loss_of(objective)
    torch.testing.assert_close(loss, plain(objective.network, 30.0))
    assert told.item() > 0


def test_the_adversary_tells_codes_from_draws_of_their_class():
    objective = CPGMAAE(small(), weight=30.0, adversarial=0.5, dim=5, width=4).eval()
    torch.manual_seed(3)
    told, loss = loss_of(objective)
    torch.manual_seed(3)
    z = objective.network.encode(IMAGE)
    draws = objective.centres[LABEL] + torch.randn(6, 5)
    both = torch.cat([torch.cat([x, F.one_hot(LABEL, 3)], dim=1) for x in (draws, z)])
    real = objective.discriminator(both).squeeze(1).sigmoid()
    expected = -real[:6].log().mean() - (1 - real[6:]).log().mean()
    torch.testing.assert_close(told, expected)
    torch.testing.assert_close(loss, plain(objective.network, 30.0) - 0.5 * real[6:].log().mean())


@pytest.mark.parametrize(("classes", "dim"), [(3, 5), (10, 32), (5, 2)])
def test_the_means_lie_six_from_the_origin_and_at_right_angles_where_they_fit(classes, dim):
    found = means(classes, dim)
    products = found @ found.T
    torch.testing.assert_close(products.diagonal(), torch.full((classes,), 36.0))
    if classes <= dim:
        torch.testing.assert_close(products, 36 * torch.eye(classes), atol=1e-4, rtol=0)
    assert found.equal(means(classes, dim))


def test_any_network_gets_a_code():
    inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 8), torch.nn.Linear(8, 3))
    wrapped = drawn_code(inner, dim=2, width=4).eval()
    assert wrapped(IMAGE).shape == (6, 3)
    assert wrapped.missed(IMAGE, IMAGE).equal(torch.zeros(6, 1))
