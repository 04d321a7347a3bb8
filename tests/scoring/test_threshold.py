import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from openset.scoring.scored import Scored
from openset.scoring.threshold import SEEN, Threshold, strays


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


def test_the_interval_is_the_beta_of_the_rank_and_of_what_is_accepted():
    threshold = Threshold.conformal(torch.arange(99.0), 0.9)
    assert threshold.ranks == threshold.accepted == (90,)
    expected = beta.ppf(0.025, 90, 10), beta.ppf(0.975, 91, 9)
    np.testing.assert_allclose(threshold.coverage, expected)
    assert "At least 90.0% of future known samples" in threshold.guarantee()
    tied = Threshold.conformal(torch.arange(99.0).clamp(max=85), 0.9)
    assert tied.accepted == (99,)
    np.testing.assert_allclose(tied.coverage, (beta.ppf(0.025, 90, 10), 1))


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("levels", [10, 100, None])
def test_holds_for_scores_of_any_levels(levels, classes):
    """Over 2,000 held-out sets the mean is at least the share, and 95 % of the intervals hold."""
    generator = torch.Generator().manual_seed(levels or 1)
    population = torch.rand(20_000, generator=generator) ** 2
    if levels:
        population = (population * levels).floor()
    group = torch.arange(len(population)) % classes
    population = population + group
    shares, held, each_held = [], 0, 0
    for _ in range(2000):
        chosen = torch.randint(len(population), (200 * classes,), generator=generator)
        by_class = (group[chosen], classes) if classes > 1 else ()
        threshold = Threshold.conformal(population[chosen], 0.9, *by_class)
        again = Threshold.from_settings(json.loads(json.dumps(threshold.settings())))
        assert again == threshold
        (low, high), limits = again.coverage, again.tensor()
        accepted = (population <= (limits[group] if classes > 1 else limits)).double()
        each = accepted.view(-1, classes).mean(0)
        shares.append(float(each.mean()))
        held += low <= shares[-1] <= high
        each_held += bool(((low <= each) & (each <= high)).all())
    assert np.mean(shares) > 0.9 - 0.002
    assert held >= each_held > 0.94 * 2000


def test_a_model_s_threshold_lies_above_its_score_by_what_rounding_may_add():
    label = torch.zeros(99, dtype=torch.long)
    for scores in (torch.arange(99.0) - 50, (torch.arange(99.0) - 50) * 1e-20):
        value = Threshold.of(Scored(scores, label, label), 0.9).values[0]
        assert 0 < value / float(scores[89]) - 1 < 2e-4
    crowded = 1 - torch.linspace(1e-3, 0, 1000, dtype=torch.float64)
    label = torch.zeros(1000, dtype=torch.long)
    threshold = Threshold.of(Scored(crowded, label, label), 0.9)
    assert threshold.ranks[0] <= threshold.accepted[0] <= threshold.ranks[0] + 10
    (m,) = threshold.accepted
    assert threshold.coverage[1] == pytest.approx(beta.ppf(0.975, m + 1, 1000 - m))


@pytest.mark.parametrize("accept", [0.5, 0.95, 0.99951, 0.9999])
def test_rounds_no_promise_up(accept):
    threshold = Threshold.conformal(torch.arange(30_000.0), accept)
    words = threshold.guarantee().split("%")
    assert float(words[0].split()[-1]) / 100 == pytest.approx(accept, abs=1e-12)
    low, high = (float(part.split()[-1]) / 100 for part in words[2:4])
    assert low <= threshold.coverage[0]
    assert high >= threshold.coverage[1]


def test_a_doubt_takes_the_promise_back_and_travels():
    threshold = Threshold.conformal(torch.rand(60), 0.9)
    assert threshold.doubted(None) is threshold
    assert "doubt" not in threshold.record()
    doubted = threshold.doubted(SEEN)
    assert doubted.guarantee().startswith(f"No guarantee holds: {SEEN}. ")
    assert "At least" not in doubted.guarantee()
    assert Threshold.from_settings(doubted.settings()) == doubted
    assert doubted.record()["doubt"] == SEEN


def test_test_images_stray_only_beyond_chance():
    generator = torch.Generator().manual_seed(0)
    strayed = 0
    for _ in range(1000):
        held_out, test = torch.rand(2, 300, generator=generator)
        threshold = Threshold.conformal(held_out, 0.9)
        accepted = int((test <= threshold.values[0]).sum())
        strayed += strays(accepted, 300, threshold.coverage)
    assert strayed / 1000 < 0.05
    assert strays(71, 100, (0.9, 0.97))
    assert strays(100, 100, (0.5, 0.6))
    assert not strays(100, 100, (0.9, 1.0))


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
    assert Threshold.of(scored, 0.5).values == pytest.approx((49.0,), rel=1e-3)


def test_a_class_that_the_held_out_data_lack_is_named():
    label = torch.arange(90) % 3
    with pytest.raises(ValueError, match="predicted as class 3"):
        Threshold.of(Scored(torch.rand(90), label, label), 0.9, classes=4)
    assert len(Threshold.of(Scored(torch.rand(90), label, label), 0.9, classes=3).values) == 3


@pytest.mark.parametrize("accept", [0, 1, 1.5, -0.1, math.nan, "0.9", None, True])
def test_refuses_a_share_outside_0_and_1(accept):
    with pytest.raises(ValueError, match="accept must lie between 0 and 1"):
        Threshold.conformal(torch.rand(50), accept)


def test_says_how_many_samples_a_share_needs():
    with pytest.raises(ValueError, match=r"needs at least 19 held-out known samples; got 18"):
        Threshold.conformal(torch.rand(18), 0.95)
    Threshold.conformal(torch.rand(19), 0.95)
    with pytest.raises(ValueError, match="predicted as class 1"):
        Threshold.conformal(torch.rand(30), 0.95, torch.zeros(30).long(), number=2)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_refuses_scores_that_are_no_numbers(wrong):
    with pytest.raises(ValueError, match="1 held-out scores are NaN or infinite"):
        Threshold.conformal(torch.tensor([wrong] + [0.0] * 50))


def test_settings_round_trip():
    threshold = Threshold.conformal(torch.rand(60), 0.9)
    assert Threshold.from_settings(threshold.settings()) == threshold
    assert threshold.record()["n"] == 60
