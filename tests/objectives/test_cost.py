"""What an objective adds to the work of training a classifier, counted and not timed."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from openset.networks import cnn
from openset.objectives import OBJECTIVES
from openset.spec import build

FACTORS = {
    "generalized-odin": 1.0,
    "subspaces": 1.0,
    "learned-confidence": 1.0,
    "rpl": 1.0,
    "arpl": 1.0,
    "one-vs-all": 1.0,
    "crosr": 1.23,
    "outlier-exposure:data=gaussian-noise,limit=9": 3.0,
}
"""Operations of a step on 28×28 images, forward and back, over those of cross-entropy."""


def operations(name):
    torch.manual_seed(0)
    network = cnn(classes=10, channels=1)
    objective = build("objective", OBJECTIVES, name, network=network).train()
    image, label = torch.rand(4, 1, 28, 28), torch.arange(4)
    with FlopCounterMode(display=False) as counter:
        for _, loss in objective.step(image, label):
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", FACTORS)
def test_a_step_costs_what_the_method_adds(name):
    assert operations(name) <= 1.2 * FACTORS[name] * operations("cross-entropy")
