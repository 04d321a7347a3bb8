import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from openset.activations import Activations
from openset.detectors import ReAct


def batch(n=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.arange(24.0).view(4, 6) / 12 - 1, torch.arange(4.0)
    x = torch.randn(n, 6, generator=generator).relu() * 2
    return Activations(
        x @ weight.T + bias, {"penultimate": x}, torch.arange(n) % 4, head=(weight, bias)
    )


def test_is_the_energy_of_features_clipped_at_a_quantile_of_all():
    train, test = batch(), batch(50, seed=1)
    limit = np.percentile(train.stacked().double().numpy(), 80)
    weight, bias = (x.double().numpy() for x in test.head)
    logits = np.minimum(test.stacked().double().numpy(), limit) @ weight.T + bias
    detector = ReAct(quantile=0.8).fit([train[:70], train[70:]])
    np.testing.assert_allclose(detector.limit, limit, rtol=1e-6)
    np.testing.assert_allclose(detector.score(test), -logsumexp(logits, axis=1), rtol=1e-5)


def test_units_far_above_all_others_do_not_make_it_surer():
    detector, usual = ReAct().fit([batch()]), batch(50, seed=1)
    spiked = usual.stacked().clone()
    spiked[:, 5] = detector.limit
    expected = detector.score(Activations(usual.logits, {"penultimate": spiked}, head=usual.head))
    spiked[:, 5] = 1e4
    rows = Activations(usual.logits, {"penultimate": spiked}, head=usual.head)
    torch.testing.assert_close(detector.score(rows), expected)


def test_a_network_without_linear_head_is_told_what_to_do():
    detector, test = ReAct().fit([batch()]), batch(50, seed=1)
    test.head = None
    with pytest.raises(ValueError, match=r"react applies .* name it: Tap\(network, head=…\)"):
        detector.score(test)


@pytest.mark.parametrize("quantile", [0.0, 1.5])
def test_a_quantile_outside_its_range_is_refused(quantile):
    with pytest.raises(ValueError, match=f"at most 1; got {quantile}"):
        ReAct(quantile)
