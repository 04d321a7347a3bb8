"""Every figure of a ranking is scikit-learn's to the last bit, from scores and from counts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from openset.evaluation.pooled import grouped, packed
from openset.evaluation.ranking import Ranking

FIGURES = (
    "auroc",
    "aupr_known",
    "aupr_unknown",
    "fpr_at_95_tpr",
    "fpr_at_95_tpr_unknown",
    "detection_error",
)


def by_scikit_learn(known, unknown):
    is_unknown = np.repeat([False, True], [len(known), len(unknown)])
    score = np.concatenate([known, unknown])
    fpr, tpr, _ = reference.roc_curve(~is_unknown, -score, drop_intermediate=False)
    rejected, found, _ = reference.roc_curve(is_unknown, score, drop_intermediate=False)
    at = np.argmax(tpr >= 0.95)
    return (
        reference.roc_auc_score(is_unknown, score),
        reference.average_precision_score(~is_unknown, -score),
        reference.average_precision_score(is_unknown, score),
        fpr[at],
        rejected[np.argmax(found >= 0.95)],
        (1 - tpr[at] + fpr[at]) / 2,
    )


def figures(ranking):
    return tuple(getattr(ranking, name)() for name in FIGURES)


def pixels(known, unknown):
    """The ranking as pixels are counted."""
    is_unknown = torch.arange(len(known) + len(unknown)) >= len(known)
    score = torch.as_tensor(np.concatenate([known, unknown]))
    return grouped(np.sort(packed(score, is_unknown)))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(1, 300), st.integers(1, 200))
def test_figures_are_scikit_learns_to_the_last_bit(seed, known, unknown, values):
    random = np.random.default_rng(seed)
    low = random.integers(0, values, known).astype(float)
    high = random.integers(0, values, unknown) + random.integers(0, 20.0)
    expected = by_scikit_learn(low, high)
    assert figures(Ranking.of(low, high)) == expected
    assert figures(pixels(low, high)) == expected


def test_distinct_scores_make_one_step_each():
    random = np.random.default_rng(0)
    low, high = random.normal(size=5000).astype("f4"), (random.normal(size=900) + 1).astype("f4")
    assert (
        figures(Ranking.of(low, high)) == by_scikit_learn(low, high) == figures(pixels(low, high))
    )


def test_empty_steps_change_nothing():
    known, unknown = np.array([3, 0, 2, 0, 1]), np.array([0, 0, 1, 0, 4])
    filled = (known + unknown) > 0
    assert figures(Ranking(known, unknown)) == pytest.approx(
        figures(Ranking(known[filled], unknown[filled])), abs=1e-15
    )


def test_the_curve_runs_from_none_accepted_to_all():
    unknown, known = Ranking.of([0.0, 1.0], [1.0, 2.0]).curve()
    assert (unknown.tolist(), known.tolist()) == ([0, 0, 0.5, 1], [0, 0.5, 1, 1])


def test_one_kind_alone_is_not_complete():
    assert not Ranking(np.array([1, 2]), np.array([0, 0])).complete
    assert Ranking(np.array([1, 2]), np.array([0, 1])).complete
