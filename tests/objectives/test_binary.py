import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.networks import cnn
from openset.objectives.binary import BIN, BINC, binary_cross_entropy, calibration_error
from openset.objectives.mmce import mmce

LABEL = torch.tensor([0, 2, 1, 1, 0])


def network():
    return cnn(classes=3, channels=1, widths=(4, 8), hidden=16)


def loss_of(objective, image, label=LABEL):
    ((learner, loss),) = objective.step(image, label)
    assert learner == "network"
    return loss


@pytest.mark.parametrize("zeta", [0.05, 1.0])
def test_weighted_cross_entropy_equals_eq_3_with_log_and_sign(zeta):
    logits = torch.randn(5, 3, dtype=torch.float64) * 3
    total = 0.0
    for row, label in zip(logits.tolist(), LABEL.tolist(), strict=True):
        for c, p in enumerate(row):
            if c == label:
                total -= math.log(math.exp(p) / (1 + math.exp(p)))
            else:
                total -= zeta * math.log(1 / (1 + math.exp(p)))
    assert binary_cross_entropy(logits, LABEL, zeta).item() == pytest.approx(total / 5, rel=1e-12)


def test_cross_entropy_is_finite_where_the_sigmoid_saturates():
    logits = torch.tensor([[1e4, -1e4, 1e4]])
    assert binary_cross_entropy(logits, torch.tensor([1]), 0.05).item() == pytest.approx(1.1e4)


def test_bin_is_the_loss_of_the_network_as_it_is():
    inner, image = network().eval(), torch.rand(5, 1, 8, 8)
    expected = binary_cross_entropy(inner(image), LABEL, 0.05)
    torch.testing.assert_close(loss_of(BIN(inner), image), expected)


def test_calibration_is_that_of_each_class_on_its_own():
    logits = torch.randn(5, 3)
    for c, found in enumerate(calibration_error(logits, LABEL)):
        p, truth = logits[:, c].sigmoid(), c == LABEL
        expected = mmce(p.maximum(1 - p), (p > 0.5) == truth)
        torch.testing.assert_close(found, expected)


def test_binc_adds_its_three_terms():
    objective, image = BINC(network(), calibration_weight=2.0, dim=8).eval(), torch.rand(5, 1, 8, 8)
    softmax, binary = objective.network.heads(image)
    expected = (
        F.cross_entropy(softmax, LABEL)
        + binary_cross_entropy(binary, LABEL, 0.05)
        + 2 * calibration_error(binary, LABEL).mean()
    )
    torch.testing.assert_close(loss_of(objective, image), expected)
    torch.testing.assert_close(objective.logits(image), softmax)


@pytest.mark.parametrize("objective", [BIN, BINC])
def test_gradients_reach_every_parameter(objective):
    trained = objective(network())
    loss_of(trained, torch.rand(5, 1, 8, 8)).backward()
    for name, parameter in trained.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_trained_network_keeps_its_own_head():
    inner = network()
    before = {name: x.clone() for name, x in inner.state_dict().items()}
    objective = BINC(inner)
    torch.testing.assert_close(objective.network.network.stage1[0].weight, inner.stage1[0].weight)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.zero_()
    assert all(torch.equal(x, before[name]) for name, x in inner.state_dict().items())


def test_learns_two_separable_classes():
    image = torch.cat([torch.zeros(8, 1, 2, 2), torch.ones(8, 1, 2, 2)])
    label = torch.arange(16) // 8
    inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    objective = BINC(inner, dim=8)
    optimizer = torch.optim.Adam(objective.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        loss_of(objective, image, label).backward()
        optimizer.step()
    softmax, binary = objective.network.heads(image)
    assert softmax.argmax(1).equal(label)
    assert binary.argmax(1).equal(label)
