"""The contract of every network: shapes, stages, spec, gradients, precision."""

import json

import pytest
import torch
from torch import nn

from openset.networks import NETWORKS, build, from_spec
from openset.tap import Tap

NAMES = sorted(NETWORKS)
STAGES_AND_PENULTIMATE = {
    "cnn": ((32, 64, 128), 256),
    "plain-cnn": ((100, 100, 100), 500),
    "vgg": ((128, 256, 256), 1024),
    "vgg13": ((64, 128, 256, 512, 512), 512),
    "resnet18": ((64, 128, 256, 512), 512),
    "resnet34": ((64, 128, 256, 512), 512),
    "wrn-16-2": ((32, 64, 128), 128),
    "wrn-16-4": ((64, 128, 256), 256),
    "wrn-28-10": ((160, 320, 640), 640),
    "densenet-121": ((128, 256, 512, 1024), 1024),
    "densenet-bc-100": ((108, 150, 342), 342),
}
"""The widths that the papers concatenate, research/peers.md 1.1–1.2."""


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield build(request.param, classes=5, channels=1).eval()


def test_the_table_lists_every_network():
    assert set(STAGES_AND_PENULTIMATE) == set(NETWORKS)


def test_names_are_those_in_the_spec(network):
    assert network.spec["name"] in NETWORKS
    assert network.spec["classes"] == 5
    assert network.spec["channels"] == 1


@pytest.mark.parametrize("size", [8, 28, 32])
def test_any_small_image_gives_logits(network, size):
    with torch.inference_mode():
        logits = network(torch.rand(1, 1, size, size))
    assert logits.shape == (1, 5)
    assert logits.isfinite().all()


@torch.inference_mode()
def test_tap_finds_the_papers_stages_and_the_head(network):
    widths, penultimate = STAGES_AND_PENULTIMATE[network.spec["name"]]
    names = [f"stage{i}" for i in range(1, len(widths) + 1)]
    activations = Tap(network, layers=names)(torch.rand(2, 1, 16, 16))
    assert [activations.features[name].shape for name in names] == [(2, d) for d in widths]
    assert activations.features["penultimate"].shape == (2, penultimate)
    weight, bias = activations.head
    by_hand = activations.features["penultimate"] @ weight.T + bias
    torch.testing.assert_close(by_hand, activations.logits)


@torch.inference_mode()
def test_a_logit_depends_on_its_own_image_only(network):
    images = torch.rand(3, 1, 16, 16)
    together = network(images)
    scale = together.abs().max()
    torch.testing.assert_close(
        together[1:2] / scale, network(images[1:2]) / scale, rtol=0, atol=1e-4
    )


def test_from_spec_makes_it_again_after_json(network):
    again = from_spec(json.loads(json.dumps(network.spec)))
    again.load_state_dict(network.state_dict())
    images = torch.rand(2, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(again.eval()(images), network(images))
    assert again.spec == json.loads(json.dumps(network.spec))


def test_every_parameter_gets_a_gradient(network):
    network.train()
    network.zero_grad()
    network(torch.rand(4, 1, 16, 16)).logsumexp(1).sum().backward()
    network.eval()
    without = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert without == []


def test_channels_last_and_bf16_autocast(network):
    images = torch.rand(2, 1, 16, 16)
    last = from_spec(network.spec).to(memory_format=torch.channels_last).eval()
    last.load_state_dict(network.state_dict())
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(
            last(images.contiguous(memory_format=torch.channels_last)),
            expected,
            rtol=1e-4,
            atol=1e-4,
        )
        with torch.autocast("cpu", torch.bfloat16):
            half = last(images)
    assert half.dtype == torch.bfloat16
    scale = expected.abs().max()
    torch.testing.assert_close(half.float() / scale, expected / scale, rtol=0, atol=0.1)


def test_convolutions_start_as_he_et_al(network):
    for name, module in from_spec(network.spec).named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            expected = (2 / fan_out) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name


def test_docstring_says_where_it_comes_from():
    assert [n for n in NAMES if n != "cnn" and "https://arxiv.org" not in NETWORKS[n].__doc__] == []
