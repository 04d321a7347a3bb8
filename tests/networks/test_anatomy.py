"""Heads and stages by what a run shows."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset import networks
from openset.extractors.tap import Tap
from openset.networks.anatomy import NO_HEAD, anatomy_of
from openset.networks.layers import find_head, find_stages


class Headed(nn.Module):
    """A classifier with a further linear map, defined and run after its head."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv, self.fc, self.other = nn.Conv2d(3, 8, 3), nn.Linear(8, 3), nn.Linear(8, 8)

    def features(self, image):
        h = self.conv(image).relu().mean((2, 3))
        return self.other(h).relu() if self.kind == "embedding" else h

    def forward(self, image):
        h = self.features(image)
        logits = self.fc(h)
        if self.kind == "auxiliary":
            self.aux = self.other(h.square())
        if self.kind == "distilled":
            return (logits + self.other(h)[:, :3]) / 2
        return F.relu(logits - 5) if self.kind == "changed" else logits.view(-1, 3)


@pytest.mark.parametrize("kind", ["embedding", "auxiliary"])
def test_the_head_is_what_gives_the_logits(kind):
    network, image = Headed(kind).eval(), torch.rand(4, 3, 9, 9)
    tap = Tap(network)
    assert tap.head == find_head(network) == "fc"
    seen = tap(image)
    torch.testing.assert_close(seen.features["penultimate"], network.features(image))
    assert torch.equal(seen.head[0], network.fc.weight)


@pytest.mark.parametrize("kind", ["distilled", "changed"])
def test_no_head_is_claimed_where_none_gives_the_logits(kind):
    assert Tap(Headed(kind))(torch.rand(4, 3, 9, 9)).head is None
    assert Tap(Headed(kind), head="fc")(torch.rand(4, 3, 9, 9)).head is None


def test_a_head_that_is_changed_in_place_is_none():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(inplace=True))
    nn.init.constant_(network[1].bias, -1.0)
    assert Tap(network)(torch.rand(4, 1, 2, 2)).head is None


def test_a_network_without_a_linear_map_has_no_head():
    assert find_head(nn.Flatten()) == NO_HEAD
    seen = Tap(nn.Flatten())(torch.rand(2, 1, 1, 2))
    assert "penultimate" not in seen.features


def test_a_quantised_head_is_found_and_not_taken_for_exact():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of deprecation.
        int8 = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, torch.qint8)
    tap, image = Tap(int8, ["1"]), torch.rand(5, 1, 4, 4)
    seen = tap(image)
    assert tap.head == "3"
    torch.testing.assert_close(seen.features["penultimate"], int8[:3](image))
    assert seen.head is None


def block(width, out, stride=2):
    return nn.Sequential(nn.Conv2d(width, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU(True))


class Squeezed(nn.Module):
    """Squeezes each map to a pixel within each block, as EfficientNet does."""

    def __init__(self, width, out):
        super().__init__()
        self.conv = block(width, out)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(out, out, 1), nn.Sigmoid())

    def forward(self, x):
        x = self.conv(x)
        return x * self.gate(x)


def classifier(*layers, width=8):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


@pytest.mark.parametrize(
    ("network", "stages"),
    [
        (classifier(block(1, 4), block(4, 8), block(8, 8)), ("0", "1", "2")),
        (classifier(block(1, 4), block(4, 4, 1), block(4, 8), block(8, 8, 1)), ("1", "3")),
        (classifier(Squeezed(1, 4), Squeezed(4, 8)), ("0", "1")),
        (classifier(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3)), ("0", "2")),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), ()),
        (nn.Identity(), ()),
    ],
)
def test_a_stage_ends_where_the_resolution_falls(network, stages):
    assert find_stages(network) == stages


def test_stages_are_the_encoders_where_a_decoder_follows():
    class Hourglass(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.further, self.up = block(1, 4), block(4, 8), nn.Conv2d(8, 3, 1)

        def forward(self, image):
            x = self.further(self.down(image))
            return F.interpolate(self.up(x), image.shape[2:])

    assert find_stages(Hourglass())[0] == "down"
    assert len(find_stages(Hourglass())) == 2


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(6, 6)

    def forward(self, x):
        return x + self.mix(x)


def test_a_network_of_one_resolution_gets_evenly_spaced_blocks():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(1, 6, 4, 4)
            self.blocks = nn.Sequential(*(Block() for _ in range(12)))
            self.head = nn.Linear(6, 3)

        def forward(self, image):
            return self.head(self.blocks(self.embed(image).flatten(2).mT).mean(1))

    assert find_stages(Tokens()) == ("blocks.2", "blocks.5", "blocks.8", "blocks.11")


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda network: nn.Sequential(nn.Identity(), network), "1."),
        (nn.DataParallel, ""),
        (lambda network: torch.compile(network, backend="eager"), ""),
    ],
)
def test_stages_are_found_in_what_wraps_the_network(wrap, prefix):
    wrapped = wrap(networks.cnn(3, 1, widths=(4, 8), hidden=8))
    assert find_stages(wrapped) == (f"{prefix}stage1", f"{prefix}stage2")


def test_a_network_is_tried_again_only_when_its_modules_change():
    network, passes = classifier(block(1, 8), block(8, 8)), []
    network.register_forward_hook(lambda *_: passes.append(1))
    first = anatomy_of(network)
    assert anatomy_of(network) is first
    assert len(passes) == 1
    network[1] = nn.Identity()
    assert find_stages(network) == ()


def test_a_trial_leaves_no_trace_in_the_network():
    network = classifier(block(1, 8), block(8, 8)).train()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    state = torch.get_rng_state()
    find_stages(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())
