import math

import pytest
import torch
from torch import nn

from openset.objectives import LogitNorm


def test_is_the_cross_entropy_of_logits_of_one_length():
    logits, label = 2 + torch.rand(6, 4), torch.tensor([0, 3, 1, 1, 2, 2])
    ((learner, value),) = LogitNorm(nn.Identity(), temperature=0.5).step(logits, label)
    assert learner == "network"
    expected = 0.0
    for row, true in zip(logits.tolist(), label.tolist(), strict=True):
        length = math.sqrt(sum(x * x for x in row))
        scaled = [x / length / 0.5 for x in row]
        expected += 0.5 * length * (math.log(sum(map(math.exp, scaled))) - scaled[true])
    assert value.item() == pytest.approx(expected / 6, rel=1e-5)


def test_the_slope_pushes_no_logits_to_grow():
    logits = torch.randn(6, 4, requires_grad=True)
    ((_, loss),) = LogitNorm(nn.Identity()).step(logits, torch.tensor([0, 3, 1, 1, 2, 2]))
    (slope,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close((slope * logits).sum(1), torch.zeros(6), atol=1e-6, rtol=0)


def test_a_temperature_of_nothing_is_refused():
    with pytest.raises(ValueError, match="temperature is 0; it must be above 0"):
        LogitNorm(nn.Identity(), temperature=0)
