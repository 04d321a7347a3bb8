"""Cross-entropy against its definition, a slow loop over the labelled rows."""

import math

import pytest
import torch
from torch import nn

from openset.activations import VOID
from openset.objectives import CrossEntropy


def slow(logits, label, smoothing=0.0):
    """−Σ_k q_k log p_k, averaged over rows that are not void; logits `[M, K]`."""
    total = count = 0.0
    for row, true in zip(logits.tolist(), label.tolist(), strict=True):
        if true == VOID:
            continue
        log_sum = math.log(sum(math.exp(value) for value in row))
        for k, value in enumerate(row):
            target = smoothing / len(row) + (1 - smoothing) * (k == true)
            total -= target * (value - log_sum)
        count += 1
    return total / count


def loss(network, image, label, **settings):
    ((learner, value),) = CrossEntropy(network, **settings).step(image, label)
    assert learner == "network"
    return value


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_is_the_mean_over_labelled_images(smoothing):
    logits, label = torch.randn(6, 4), torch.tensor([0, 3, VOID, 1, VOID, 2])
    value = loss(nn.Identity(), logits, label, label_smoothing=smoothing)
    assert value.item() == pytest.approx(slow(logits, label, smoothing), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_is_the_mean_over_labelled_pixels(smoothing):
    logits = torch.randn(2, 4, 3, 5)
    label = torch.randint(4, (2, 3, 5))
    label[0, 0] = VOID
    rows = logits.permute(0, 2, 3, 1).reshape(-1, 4)
    value = loss(nn.Identity(), logits, label, label_smoothing=smoothing)
    assert value.item() == pytest.approx(slow(rows, label.flatten(), smoothing), rel=1e-5)


def test_all_void_gives_zero_and_no_gradient():
    network = nn.Linear(3, 2)
    value = loss(network, torch.randn(4, 3), torch.full((4,), VOID))
    value.backward()
    assert value.item() == 0
    assert network.weight.grad is not None
    assert not network.weight.grad.any()


def test_refuses_a_smoothing_that_is_no_share():
    with pytest.raises(ValueError, match="label_smoothing"):
        CrossEntropy(nn.Identity(), label_smoothing=1.5)
