"""Autoencoders, and the objective that trains them."""

import pytest
import torch

from openset.networks import autoencoder, from_spec
from openset.objectives.reconstruction import Reconstruction


@pytest.mark.parametrize(
    ("channels", "size", "code"), [(1, 28, 32), (3, 32, 256), (3, 8, 256), (1, 12, 32)]
)
def test_it_gives_an_image_of_the_same_shape_through_a_small_code(channels, size, code):
    network = autoencoder(channels, size)
    image = torch.rand(2, channels, size, size)
    again = network(image)
    assert network.encoder(network.normalize(image)).shape == (2, code)
    assert again.shape == image.shape
    assert again.min() >= 0
    assert again.max() <= 1


def test_the_spec_makes_it_again():
    network = autoencoder(3, 8, latent=5, width=4).eval()
    again = from_spec(network.spec).eval()
    again.load_state_dict(network.state_dict())
    image = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(again(image), network(image))


def test_a_size_that_four_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="divisible by 4"):
        autoencoder(1, 30)


def test_training_learns_to_reconstruct_whatever_the_labels():
    network = autoencoder(1, 8, latent=4, width=4)
    start = ((network(torch.full((2, 1, 8, 8), 0.3)) - 0.3) ** 2).mean()
    [(_, loss)] = Reconstruction(network).step(torch.full((2, 1, 8, 8), 0.3), torch.zeros(2))
    torch.testing.assert_close(loss, start)
    objective = Reconstruction(network)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    image = torch.rand(16, 1, 1, 1).expand(16, 1, 8, 8)
    losses = []
    for _ in range(150):
        [(learner, loss)] = objective.step(image, torch.full((16,), -1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert learner == "network"
    assert losses[-1] < losses[0] / 4
