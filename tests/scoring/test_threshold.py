import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from openset.scoring.scored import Scored
from openset.scoring.threshold import Threshold


@given(st.integers(19, 400), st.floats(0.5, 0.95))
def test_is_the_conformal_order_statistic(n, accept):
    scores = torch.randperm(n).double()
    threshold = Threshold.conformal(scores, accept)
    (value,) = threshold.values
    rank = int((scores <= value).sum())
    assert rank >= (n + 1) * accept - 1e-6
    assert rank - 1 < (n + 1) * accept


def test_accepts_the_promised_share_on_average():
    """The guarantee itself: over many draws the mean share is at least 0.9, and near it."""
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(400):
        held_out, future = torch.randn(2, 200, generator=generator)
        (value,) = Threshold.conformal(held_out, 0.9).values
        shares.append(float((future <= value).double().mean()))
    assert 0.895 < np.mean(shares) < 0.91


def test_the_interval_covers_what_it_says():
    generator = torch.Generator().manual_seed(1)
    inside = 0
    for _ in range(1000):
        threshold = Threshold.conformal(torch.rand(150, generator=generator), 0.9)
        low, high = threshold.coverage
        inside += low <= threshold.values[0] <= high  # The share of uniform scores below a value.
    assert 0.93 < inside / 1000 < 0.97


def test_the_interval_is_the_beta_of_the_rank():
    threshold = Threshold.conformal(torch.arange(99.0), 0.9)
    assert threshold.ranks == (90,)
    np.testing.assert_allclose(threshold.coverage, beta.ppf([0.025, 0.975], 90, 10))
    assert "At least 90.0% of future known samples" in threshold.guarantee()


def test_each_class_gets_its_own():
    scores = torch.cat([torch.arange(100.0), torch.arange(100.0) * 10])
    classes = torch.arange(2).repeat_interleave(100)
    threshold = Threshold.conformal(scores, 0.9, classes, number=2)
    assert threshold.values == (90.0, 900.0)
    assert threshold.counts == (100, 100)
    assert "each predicted class" in threshold.guarantee()


def test_only_known_samples_count():
    label = torch.cat([torch.zeros(99), torch.full((50,), -1)]).long()
    scored = Scored(torch.arange(149.0), label, torch.zeros(149, dtype=torch.long))
    assert Threshold.of(scored, 0.5).values == (49.0,)


def test_a_class_that_the_held_out_data_lack_is_named():
    label = torch.arange(90) % 3
    with pytest.raises(ValueError, match="predicted as class 3"):
        Threshold.of(Scored(torch.rand(90), label, label), 0.9, classes=4)
    assert len(Threshold.of(Scored(torch.rand(90), label, label), 0.9, classes=3).values) == 3


@pytest.mark.parametrize("accept", [0, 1, 1.5, -0.1])
def test_refuses_a_share_outside_0_and_1(accept):
    with pytest.raises(ValueError, match="accept must lie between 0 and 1"):
        Threshold.conformal(torch.rand(50), accept)


def test_says_how_many_samples_a_share_needs():
    with pytest.raises(ValueError, match=r"needs at least 19 held-out known samples; got 18"):
        Threshold.conformal(torch.rand(18), 0.95)
    Threshold.conformal(torch.rand(19), 0.95)
    with pytest.raises(ValueError, match="predicted as class 1"):
        Threshold.conformal(torch.rand(30), 0.95, torch.zeros(30).long(), number=2)


def test_refuses_nan():
    with pytest.raises(ValueError, match="1 held-out scores are NaN"):
        Threshold.conformal(torch.tensor([math.nan] + [0.0] * 50))


def test_settings_round_trip():
    threshold = Threshold.conformal(torch.rand(60), 0.9)
    assert Threshold.from_settings(threshold.settings()) == threshold
    assert threshold.record()["n"] == 60
