"""The contract of every network: shapes, stages, spec, gradients, precision."""

import json
from copy import deepcopy

import pytest
import torch
from torch import nn

from openset.extractors.tap import Tap
from openset.networks import NETWORKS, build, from_spec

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
    "densenet-bc-40": ((48, 60, 132), 132),
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


@torch.inference_mode()
def test_channels_last_and_bf16_autocast(network):
    """Which kernels a CPU has decides the last digits alone: each precision keeps its bound."""
    images = torch.rand(2, 1, 16, 16)
    exact = deepcopy(network).double()(images.double())
    maps = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    terms = max(m.weight[0].numel() for m in maps)
    # In whatever order it is added up, a sum of n rounded products is off by about √n roundings
    # (Higham & Mary 2019, https://doi.org/10.1137/18M1226312), and each map passes on what it got.
    for dtype in (torch.float64, torch.float32):
        logits = channels_last(network, images.to(dtype))
        assert error(logits, exact) < len(maps) * terms**0.5 * roundoff(dtype)
    # bfloat16 rounds map, norm and sum of a layer, but adds up in float32. Such roundings have a
    # standard deviation of 1/√3 and are independent: √(3 maps) / √3 together, and four times that.
    with torch.autocast("cpu", torch.bfloat16):
        half = channels_last(network, images)
    assert half.dtype == torch.bfloat16
    assert error(half, exact) < 4 * len(maps) ** 0.5 * roundoff(torch.bfloat16)


def channels_last(network, images):
    last = deepcopy(network).to(images.dtype, memory_format=torch.channels_last)
    return last(images.contiguous(memory_format=torch.channels_last))


def error(logits, exact):
    """The largest error by the logits' scale: a logit near zero is what large numbers leave."""
    return float((logits.double() - exact).abs().max() / exact.abs().max())


def roundoff(dtype):
    """The largest relative error of one rounding."""
    return torch.finfo(dtype).eps / 2


def test_convolutions_start_as_he_et_al(network):
    for name, module in from_spec(network.spec).named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            expected = (2 / fan_out) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name


def test_docstring_says_where_it_comes_from():
    assert [n for n in NAMES if n != "cnn" and "https://" not in NETWORKS[n].__doc__] == []
