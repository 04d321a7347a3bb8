import math

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from openset.activations import Activations
from openset.detectors import OpenMax
from openset.detectors.tails import pareto, within


@pytest.mark.parametrize("shape", [0.1, 0.3, 0.6])
def test_moments_find_the_law_that_drew(shape):
    drawn = genpareto(shape, scale=2).rvs(200_000, random_state=0)
    found, scale = pareto(torch.from_numpy(np.sort(drawn)))
    assert found.item() == pytest.approx(shape, abs=0.03)
    assert scale.item() == pytest.approx(2, rel=0.03)


def test_on_an_exponential_the_quantiles_are_the_analytic_ones():
    drawn = torch.distributions.Exponential(0.5)
    torch.manual_seed(0)
    shape, scale = pareto(drawn.sample((100_000,)).double().sort().values)
    for p in (0.5, 0.9, 0.99):
        quantile = torch.tensor(-2 * math.log(1 - p), dtype=torch.double)
        assert within(quantile, shape, scale).item() == pytest.approx(p, abs=0.005)


def test_what_is_within_is_scipys_distribution_and_nothing_below_the_threshold():
    x = torch.linspace(-1, 9, 21, dtype=torch.double)
    found = within(x, torch.tensor(0.3).double(), torch.tensor(1.7).double())
    np.testing.assert_allclose(found, genpareto(0.3, scale=1.7).cdf(x.numpy()), atol=1e-9)


def test_openmax_takes_a_pareto_tail_in_place_of_the_weibull():
    torch.manual_seed(0)
    labels = torch.arange(600) % 3
    train = Activations(torch.randn(600, 3) + 9 * torch.eye(3)[labels], labels=labels)
    detector = OpenMax(tail=40, law="pareto").fit([train])
    x = train.logits.double()
    for c in range(3):
        rows = x[(labels == c) & (x.argmax(1) == c)]
        tail = (rows - rows.mean(0)).norm(dim=1).sort().values[-40:]
        shape, scale = pareto((tail - tail[0])[1:])
        far = torch.randn(9, 3).double() * 5
        distance = (far - rows.mean(0)).norm(dim=1)
        expected = genpareto(float(shape), loc=float(tail[0]), scale=float(scale)).cdf(distance)
        np.testing.assert_allclose(detector.outlying(far)[:, c], expected, rtol=1e-4, atol=1e-6)
    nowhere = Activations(torch.tensor([[40.0, 30.0, 0.0]]))
    assert detector(nowhere) > detector(train).quantile(0.95)
    with pytest.raises(ValueError, match="law must be one of"):
        OpenMax(law="gumbel")
    same = Activations(torch.eye(3).repeat(8, 1), labels=torch.arange(24) % 3)
    with pytest.raises(ValueError, match="largest distances of class 0 are all"):
        OpenMax(law="pareto").fit([same])
