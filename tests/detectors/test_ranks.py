import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from openset.detectors.ranks import TailRank, beyond


def loop(scores, s):
    """−log p as METHODS defines it, one score at a time."""
    n = len(scores)
    return [-np.log((1 + sum(other >= x for other in scores)) / (n + 1)) for x in s]


def test_is_the_conformal_p_value_at_every_held_out_score():
    groups = [torch.randn(300), torch.rand(200), torch.randint(0, 9, (50,)).float()]
    rank = TailRank().fit(groups)
    for g, scores in enumerate(groups):
        value = rank(scores[:, None].expand(-1, 3))[:, g]
        np.testing.assert_allclose(value, loop(scores.tolist(), scores.tolist()), rtol=1e-4)


def test_rises_strictly_from_the_smallest_score_without_end():
    scores = torch.randn(500).exp().double()
    rank = TailRank().fit([scores])
    s = torch.logspace(np.log10(float(scores.min())), 8, 10_000, dtype=torch.double)
    value = rank(s[:, None]).squeeze(1)
    assert (value.diff() > 0).all()
    assert value.isfinite().all()


def test_has_no_jump():
    scores = torch.randn(500)
    rank = TailRank().fit([scores])
    s = torch.linspace(-4, 6, 200_001, dtype=torch.double)
    steepest = rank(s[:, None]).squeeze(1).diff().max()
    finer = torch.linspace(-4, 6, 2_000_001, dtype=torch.double)
    assert rank(finer[:, None]).squeeze(1).diff().max() < steepest / 5


def test_below_every_held_out_score_p_is_one():
    assert TailRank().fit([torch.arange(9.0)])(torch.tensor([[-5.0]])).item() == 0


@pytest.mark.parametrize("shape", [0.1, 0.4])
def test_the_tail_is_that_of_the_distribution_the_scores_came_from(shape):
    x = genpareto(shape, scale=2).ppf((np.arange(20_000) + 0.5) / 20_000)
    scores = torch.tensor(x)
    fitted, scale = beyond(scores)
    assert fitted.item() == pytest.approx(shape, abs=0.05)
    rank = TailRank().fit([scores])
    far = genpareto(shape, scale=2).isf(1e-8)
    farther = np.log(genpareto(shape, scale=2).sf(x[-1]) / 1e-8)
    expected = np.log(20_001 / 2) + farther
    assert rank(torch.tensor([[far]])).item() == pytest.approx(expected, rel=0.03)
    assert scale.item() == pytest.approx(2 + shape * x[-1], rel=0.25)


def test_many_scores_keep_few_knots():
    scores = torch.randn(50_000)
    rank = TailRank(knots=300).fit([scores])
    assert rank.score.shape[1] <= 300
    whole = TailRank(knots=50_000).fit([scores])
    s = torch.linspace(-5, 9, 1000)[:, None]
    torch.testing.assert_close(rank(s), whole(s), rtol=0, atol=0.04)
    assert rank(scores.max()[None, None]).item() == pytest.approx(np.log(50_001 / 2), rel=1e-4)


@pytest.mark.parametrize("scores", [torch.zeros(20), torch.tensor([0.0] * 19 + [1.0])])
def test_equal_scores_still_have_a_tail(scores):
    value = TailRank().fit([scores])(torch.tensor([[0.0], [1.0], [2.0], [3.0]])).squeeze(1)
    assert value.isfinite().all()
    assert (value.diff() > 0).all()


def test_exports_what_it_scores():
    rank = TailRank().fit([torch.randn(50), torch.randn(30)])
    s = torch.randn(40, 2) * 3
    torch.testing.assert_close(torch.export.export(rank, (s,)).module()(s), rank(s))


def test_too_few_scores_are_refused():
    with pytest.raises(ValueError, match="at least 2 held-out known scores"):
        TailRank().fit([torch.zeros(1)])
