"""The second look through an autoencoder."""

import pytest
import torch
from torch import nn

from openset.extractors.reconstruct import Reconstruct
from openset.extractors.tap import Tap
from openset.networks.watch import output_of


class Darker(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.9)

    def forward(self, image):
        return self.drop(image) * 0.5


def network(dense=False):
    head = (
        (nn.Conv2d(4, 3, 1),) if dense else (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    )
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), *head)


@pytest.mark.parametrize("tapped", [[], ["1"]])
def test_it_is_the_mean_squared_difference_of_the_pooled_layer(tapped):
    model, image = network(), torch.rand(5, 1, 6, 6)
    seen = Reconstruct(Tap(model, tapped), Darker(), layer="1")(image)
    before, after = (model[:2](x).mean((2, 3)) for x in (image, image * 0.5))
    torch.testing.assert_close(seen.extra["reconstruction"], (before - after).square().mean(1))
    torch.testing.assert_close(seen.logits, model(image))
    assert list(seen.features) == [*tapped, "penultimate"]


def test_a_network_that_labels_pixels_gets_one_value_per_pixel():
    model, image = network(dense=True), torch.rand(2, 1, 6, 6)
    seen = Reconstruct(Tap(model, ["1"]), Darker(), layer="1")(image)
    difference = (model[:2](image) - model[:2](image * 0.5)).square().mean(1)
    torch.testing.assert_close(seen.extra["reconstruction"], difference)


def test_modes_are_as_before():
    model, autoencoder = network().train(), Darker().train()
    Reconstruct(Tap(model), autoencoder, layer="1")(torch.rand(2, 1, 6, 6))
    assert model.training
    assert autoencoder.drop.training


def test_an_autoencoder_of_another_size_is_an_error():
    look = Reconstruct(Tap(network()), nn.AvgPool2d(2), layer="1")
    with pytest.raises(ValueError, match="must agree"):
        look(torch.rand(2, 1, 6, 6))


def test_a_layer_the_tap_records_is_not_computed_again():
    model, calls = network(), []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    model.stages = ("1",)
    image = torch.rand(2, 1, 6, 6)
    for layers, passes in ((["1"], 2), ([], 3)):
        calls.clear()
        Reconstruct(Tap(model, layers, head="4"), Darker(), layer="stage1")(image)
        assert len(calls) == passes


def test_what_comes_after_the_layer_is_not_run():
    model, calls = network(), []
    model[2].register_forward_hook(lambda *_: calls.append(1))
    image = torch.rand(2, 1, 6, 6)
    assert torch.equal(output_of(model, "1", image), model[:2](image))
    assert calls == []
    assert not model[1]._forward_hooks
    model.extra = nn.ReLU()
    model.forward = lambda image: image
    with pytest.raises(ValueError, match="did not run its module 'extra'"):
        output_of(model, "extra", image)
