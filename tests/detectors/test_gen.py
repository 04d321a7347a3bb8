import numpy as np
import pytest
import torch
from scipy.special import softmax

from openset.activations import Activations
from openset.detectors import GEN


@pytest.mark.parametrize(("gamma", "top"), [(0.1, 100), (0.1, 4), (0.5, 7)])
def test_equals_the_papers_equation(gamma, top):
    logits = torch.randn(50, 7, dtype=torch.float64) * 3
    p = np.sort(softmax(logits.numpy(), 1), 1)[:, ::-1][:, :top]
    expected = (p**gamma * (1 - p) ** gamma).sum(1)
    np.testing.assert_allclose(GEN(gamma, top).score(Activations(logits)), expected, rtol=1e-9)


def test_probabilities_that_round_to_one_still_rank():
    logits = torch.tensor([[40.0, 0.0, 0.0], [60.0, 0.0, 0.0], [110.0, 0.0, 0.0]])
    p = np.exp(-np.array([40.0, 60.0, 110.0]))
    expected = (2 * p) ** 0.1 + 2 * p**0.1
    np.testing.assert_allclose(GEN().score(Activations(logits)), expected, rtol=1e-4)


def test_gamma_must_be_positive():
    with pytest.raises(ValueError, match="gamma must be above 0; got 0"):
        GEN(gamma=0)
