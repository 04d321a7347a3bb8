"""Traits of each family's blocks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.networks import build, vgg13
from openset.networks.densenet import DenseLayer
from openset.networks.resnet import BasicBlock
from openset.networks.wide_resnet import PreactivatedBlock


def silence(convolution: nn.Conv2d) -> None:
    nn.init.zeros_(convolution.weight)


def test_a_silent_basic_block_is_the_relu_of_its_input():
    block = BasicBlock(4, 4).eval()
    silence(block.conv2)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), x.relu())


def test_a_silent_preactivated_block_is_its_input():
    block = PreactivatedBlock(4, 4, 1, dropout=0.0).eval()
    silence(block.conv2)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_the_shortcut_of_a_preactivated_block_sees_the_activated_input():
    block = PreactivatedBlock(4, 6, 2, dropout=0.0).eval()
    silence(block.conv2)
    nn.init.constant_(block.norm1.bias, 0.3)
    x = torch.randn(2, 4, 6, 6)
    norm = block.norm1
    active = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()
    expected = F.conv2d(active, block.shortcut.weight, stride=2)
    torch.testing.assert_close(block(x), expected)


def test_a_dense_layer_keeps_its_input_and_adds_growth():
    x = torch.randn(2, 6, 5, 5)
    y = DenseLayer(6, 3)(x)
    assert y.shape == (2, 9, 5, 5)
    assert torch.equal(y[:, :6], x)


@pytest.mark.parametrize(
    ("spec", "sides"),
    [
        ("cnn", [16, 8, 4]),
        ("vgg13", [16, 8, 4, 2, 1]),
        ("resnet18:width=4", [32, 16, 8, 4]),
        ("wrn-16-2", [32, 16, 8]),
        ("densenet-bc-100", [16, 8, 8]),
    ],
)
@torch.inference_mode()
def test_stages_end_at_each_change_of_resolution(spec, sides):
    network = build(spec, classes=2).eval()
    x, seen = network.stem(network.normalize(torch.rand(1, 3, 32, 32))), []
    for stage in network.stages:
        x = network.get_submodule(stage)(x)
        seen.append(x.shape[-1])
    assert seen == sides


def test_dropout_acts_in_training_only():
    images = torch.rand(1, 3, 16, 16)
    for network in (build("wrn-16-2:dropout=0.5", classes=4), vgg13(classes=4)):
        network.train()
        # Batch norm would change the output too, but one batch's statistics are always the same.
        assert not torch.equal(network(images), network(images))
        network.eval()
        assert torch.equal(network(images), network(images))


def test_vgg13_has_no_batch_norm_and_vgg_has():
    has = {
        name: any(isinstance(m, nn.BatchNorm2d) for m in build(name, classes=2).modules())
        for name in ("vgg", "vgg13", "plain-cnn", "cnn")
    }
    assert has == {"vgg": True, "vgg13": False, "plain-cnn": False, "cnn": True}


def test_no_relu_follows_the_features_of_the_plain_cnn():
    network = build("plain-cnn", classes=2, channels=1)
    x = torch.rand(4, 1, 28, 28)
    for part in (network.normalize, network.stage1, network.stage2, network.stage3, network.neck):
        x = part(x)
    assert x.min() < 0
