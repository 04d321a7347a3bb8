"""CPGM-AAE: its loss, its means, and codes that become draws of their classes' Gaussians."""

import pytest
import torch
from torch.nn import functional as F

from openset.data import batches, load
from openset.networks import cnn, drawn_code
from openset.objectives import CPGMAAE
from openset.objectives.cpgm_aae import means
from openset.training.loop import train

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
    objective = CPGMAAE(small(), weight=30.0, adversarial=0.5, penalty=4.0, dim=5, width=4).eval()
    torch.manual_seed(3)
    told, loss = loss_of(objective)
    torch.manual_seed(3)
    noise, z = torch.randn(6, 5), objective.network.encode(IMAGE)
    own, layers = objective.centres[LABEL], objective.discriminator

    def real(away):
        return layers(torch.cat([away, F.one_hot(LABEL, 3)], dim=1)).squeeze(1).sigmoid()

    # The slope of a ReLU network is the product of its maps, where they are not cut off.
    below = layers[0](torch.cat([noise, F.one_hot(LABEL, 3)], dim=1))
    above = layers[2](below.relu())
    slope = (layers[4].weight * (above > 0)) @ layers[2].weight * (below > 0)
    slope = slope @ layers[0].weight[:, :5]
    deceived = real(z - own).log().mean()
    expected = -real(noise).log().mean() - (1 - real(z - own)).log().mean()
    expected = expected + 2.0 * slope.square().sum(1).mean()
    torch.testing.assert_close(told, expected)
    torch.testing.assert_close(loss, plain(objective.network, 30.0) - 0.5 * deceived)


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


@pytest.mark.slow
def test_codes_become_draws_of_their_classes():
    """On a code of two dimensions, as can be looked at."""
    data = load("digits", known_classes="0-2", valid=0.3)
    torch.manual_seed(0)
    objective = CPGMAAE(cnn(classes=3, channels=1, widths=(16, 32)), dim=2, width=8)
    train(objective, data.train, epochs=100, batch_size=32, optimizer="adam", lr=1e-3)
    # Of a class 36 images are held out, whose deviation is known to an eighth at best.
    for images, within in ((data.train, 0.3), (data.valid, 0.5)):
        [(image, label)] = batches(images, 1000)
        with torch.no_grad():
            z, mean = objective.network.encode(image), objective.centres[label]
            taken = objective.real(z, label) > 0
            right = torch.cat([objective.real(mean + torch.randn_like(z), label) > 0, ~taken])
            read = objective.network.head(z).argmax(1) == label
        assert right.float().mean() == pytest.approx(0.5, abs=0.1)
        assert read.float().mean() > 0.98
        for c in range(3):
            # An image that is misread lies by another mean; the detector leaves it out too.
            own = (z - mean)[read & (label == c)]
            assert own.mean(0).norm() < 0.5
            assert (own.std(0) - 1).abs().max() < within
