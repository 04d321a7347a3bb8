"""p-values that grow with the stream are uniform, and the bets against them keep their word."""

import itertools

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from openset.life.martingale import BETS, WAIT, Martingale, Urn, log_bets
from openset.scoring.held_out import HeldOut


def drawn(n, draw, kind):
    """Scores: all different, or many equal as those of a saturated softmax."""
    scores = draw.standard_normal(n)
    return np.where(scores < 0.7, 0.0, scores.round(1)) if kind == "equal" else scores


def urn(scores, seed=0):
    return Urn(HeldOut().fit([torch.from_numpy(scores).sort().values]), seed=seed)


def uniform(n, draw):
    return draw.random(n), draw.random(n)


def p_value_by_ranks(held_out, stream, smoothing):
    """The definition, of scores that all differ: the share of all so far that are higher."""
    found, seen = [], list(held_out)
    for score, share in zip(stream, smoothing, strict=True):
        found.append((sum(x > score for x in seen) + share) / (len(seen) + 1))
        seen.append(score)
    return np.array(found)


def test_every_bet_is_fair():
    for i in range(BETS):
        total, _ = integrate.quad(lambda p, i=i: np.exp(log_bets(np.array([p])))[0, i], 0, 1)
        assert total == pytest.approx(1, abs=1e-6)


def test_winnings_are_those_of_a_loop():
    p = np.random.default_rng(0).random(300) ** 2
    active, reserve, expected = np.full(BETS, 0.5 / BETS), 0.5, []
    for i, pays in enumerate(np.exp(log_bets(p)), 1):
        left = 0.5 * WAIT / (WAIT + i)
        active, reserve = (active + (reserve - left) / BETS) * pays, left
        expected.append(reserve + active.sum())
    at_once = Martingale()
    np.testing.assert_allclose(np.exp(at_once.add(p)), expected)
    by_parts = Martingale()
    parts = [by_parts.add(part) for part in np.split(p, [7, 7, 100])]
    np.testing.assert_allclose(np.concatenate(parts), np.log(expected))
    np.testing.assert_allclose(by_parts.active, at_once.active)


def test_p_values_are_those_of_the_definition_but_for_the_place_within_a_bin():
    draw = np.random.default_rng(1)
    held_out, stream = draw.standard_normal(400), draw.standard_normal(500)
    found = urn(held_out).p_values(stream, *uniform(500, draw))
    expected = p_value_by_ranks(held_out, stream, np.full(500, 0.5))
    assert np.abs(found - expected).max() < 0.02
    assert stats.spearmanr(found, expected).statistic > 0.999


def test_parts_of_a_stream_give_what_all_of_it_does():
    draw = np.random.default_rng(2)
    held_out, stream = draw.standard_normal(3000), draw.standard_normal(5000)
    digits, smoothing = uniform(5000, draw)
    at_once = urn(held_out).p_values(stream, digits, smoothing)
    one, cuts = urn(held_out), [0, 1, 1, 900, 5000]
    parts = [
        one.p_values(stream[i:j], digits[i:j], smoothing[i:j]) for i, j in itertools.pairwise(cuts)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), at_once)


@pytest.mark.parametrize("kind", ["different", "equal"])
@pytest.mark.parametrize("n", [60, 3000])
def test_p_values_of_known_streams_are_uniform_and_independent(kind, n):
    found = []
    for seed in range(400):
        draw = np.random.default_rng(seed)
        made = urn(drawn(n, draw, kind), seed)
        found.append(made.p_values(drawn(25, draw, kind), *uniform(25, draw)))
    found = np.stack(found)
    assert stats.kstest(found.flatten(), "uniform").pvalue > 0.001
    assert stats.kstest(found[:, -1], "uniform").pvalue > 0.001
    means = found.mean(1)  # Of independent ones, 1/12/25 is the variance; of a fixed sample, more.
    assert means.var() == pytest.approx(1 / 300, rel=0.25)


def test_the_alarm_keeps_its_promise_and_that_of_a_fixed_sample_would_not():
    alarms = np.zeros(2)
    for seed in range(200):
        draw = np.random.default_rng(seed)
        held_out, stream = np.sort(draw.standard_normal(100)), draw.standard_normal(4000)
        growing = urn(held_out, seed).p_values(stream, *uniform(4000, draw))
        above = 100 - np.searchsorted(held_out, stream)
        fixed = (above + draw.random(4000)) / 101
        alarms += [Martingale().add(p).max() >= np.log(20) for p in (growing, fixed)]
    assert alarms[0] <= stats.binom.isf(0.001, 200, 0.05)
    assert alarms[1] > 100


def test_strange_images_are_noticed_early_and_late():
    draw = np.random.default_rng(3)
    for known in (0, 3000):
        made = urn(draw.standard_normal(2000))
        stream = np.concatenate(
            [draw.standard_normal(known), draw.standard_normal(400) + 5 * (draw.random(400) < 0.1)]
        )
        winnings = Martingale().add(made.p_values(stream, *uniform(len(stream), draw)))
        first = np.flatnonzero(winnings >= np.log(100))[0]
        assert known < first < known + 300
