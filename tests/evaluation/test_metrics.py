"""Metrics against scikit-learn, slow loops, cases computed by hand, and their invariances."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.model_selection import StratifiedKFold

from openset.activations import UNKNOWN
from openset.evaluation import metrics
from openset.evaluation.metrics import METRICS, STANDARD, measure
from openset.scoring.scored import Scored

OF_SCORES = {
    "auroc": metrics.auroc,
    "aupr_known": metrics.aupr_known,
    "aupr_unknown": metrics.aupr_unknown,
    "fpr_at_95_tpr": metrics.fpr_at_95_tpr,
    "tnr_at_95_tpr": metrics.tnr_at_95_tpr,
    "fpr_at_95_tpr_unknown": metrics.fpr_at_95_tpr_unknown,
    "detection_error": metrics.detection_error,
    "detection_accuracy": metrics.detection_accuracy,
}

# No deadline: a busy machine would fail a test that is right.
fast = settings(deadline=None, max_examples=40)

# Few distinct values, so that ties are common.
scores = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=40)


@st.composite
def scored(draw, classes=3, unknown=False, smallest=1):
    rows = st.tuples(
        st.integers(-6, 6).map(float), st.integers(0, classes - 1), st.integers(0, classes - 1)
    )
    drawn = draw(st.lists(rows, min_size=smallest, max_size=40))
    score, label, predicted = (torch.tensor(column) for column in zip(*drawn, strict=True))
    return Scored(score, torch.full_like(label, UNKNOWN) if unknown else label, predicted)


def labelled(known, unknown):
    return np.repeat([0, 1], [len(known), len(unknown)]), np.array([*known, *unknown])


@fast
@given(known=scores, unknown=scores)
def test_detection_accuracy_is_the_best_of_all_thresholds(known, unknown):
    """Lee et al. 2018: both kinds equally likely, and the threshold the best there is."""
    best = 0.0
    for threshold in (-math.inf, *known, *unknown):
        accepted = np.mean([score <= threshold for score in known])
        rejected = np.mean([score > threshold for score in unknown])
        best = max(best, (accepted + rejected) / 2)
    assert metrics.detection_accuracy(known, unknown) == pytest.approx(best)
    error = metrics.detection_error(known, unknown)
    assert metrics.detection_accuracy(known, unknown) >= 1 - error - 1e-12


@fast
@given(known=scores, unknown=scores)
def test_areas_equal_sklearn(known, unknown):
    is_unknown, score = labelled(known, unknown)
    assert metrics.auroc(known, unknown) == reference.roc_auc_score(is_unknown, score)
    expected = reference.average_precision_score(is_unknown, score)
    assert metrics.aupr_unknown(known, unknown) == expected
    expected = reference.average_precision_score(1 - is_unknown, -score)
    assert metrics.aupr_known(known, unknown) == expected


@fast
@given(known=scores, unknown=scores)
def test_auroc_is_the_probability_of_the_right_order(known, unknown):
    wins = [(u > k) + 0.5 * (u == k) for k in known for u in unknown]
    assert metrics.auroc(known, unknown) == pytest.approx(np.mean(wins))
    assert metrics.auroc(unknown, known) == pytest.approx(1 - metrics.auroc(known, unknown))


@fast
@given(known=scores, unknown=scores)
def test_rates_equal_a_search_over_every_threshold(known, unknown):
    known, unknown = np.array(known), np.array(unknown)
    cuts = sorted({*known, *unknown})
    accepting = next(t for t in cuts if 100 * np.sum(known <= t) >= 95 * len(known))
    fpr = np.mean(unknown <= accepting)
    assert metrics.fpr_at_95_tpr(known, unknown) == pytest.approx(fpr)
    assert metrics.tnr_at_95_tpr(known, unknown) == pytest.approx(1 - fpr)
    error = (np.mean(known > accepting) + fpr) / 2
    assert metrics.detection_error(known, unknown) == pytest.approx(error)
    finding = next(t for t in cuts[::-1] if 100 * np.sum(unknown >= t) >= 95 * len(unknown))
    expected = np.mean(known >= finding)
    assert metrics.fpr_at_95_tpr_unknown(known, unknown) == pytest.approx(expected)


def test_both_fpr_conventions_by_hand():
    known = [*range(19), 100]  # 95 % of known lie at or below 18
    unknown = [17, 18, 19, 20]
    assert metrics.fpr_at_95_tpr(known, unknown) == 0.5
    assert metrics.tnr_at_95_tpr(known, unknown) == 0.5
    # All four unknown must be found to reach 95 %: at 17, which rejects 17, 18 and 100 of known.
    assert metrics.fpr_at_95_tpr_unknown(known, unknown) == pytest.approx(3 / 20)
    # 5 % of known rejected, half of the unknown accepted.
    assert metrics.detection_error(known, unknown) == pytest.approx(0.5 * 0.05 + 0.5 * 0.5)


def test_detection_error_agrees_with_the_survey_table():
    # Sreeramdass & Sarawagi, table 1, ODIN on Tiny-ImageNet crop: FPR 25.8 %, error 15.41 %.
    known, unknown = torch.arange(1000), torch.cat([torch.zeros(258), torch.full((742,), 2000)])
    assert metrics.fpr_at_95_tpr(known, unknown) == pytest.approx(0.258)
    assert metrics.detection_error(known, unknown) == pytest.approx(0.1541, abs=1e-4)


@pytest.mark.parametrize("metric", OF_SCORES.values(), ids=OF_SCORES)
@fast
@given(known=scores, unknown=scores)
def test_increasing_maps_change_nothing(metric, known, unknown):
    def stretched(score):
        return np.exp(3 * np.array(score)) - 1e-3

    expected = metric(known, unknown)
    assert metric(stretched(known), stretched(unknown)) == expected
    far = [math.inf if s == 6 else -math.inf if s == -6 else s for s in known]
    also = [math.inf if s == 6 else -math.inf if s == -6 else s for s in unknown]
    assert metric(far, also) == expected


def test_large_scores_are_not_squashed():
    # torchmetrics applies a sigmoid to such scores and gives 0.5.
    known, unknown = torch.randn(500) + 40, torch.randn(500) + 41
    assert metrics.auroc(known, unknown) == metrics.auroc(known - 40, unknown - 40) > 0.7


@pytest.mark.parametrize("metric", OF_SCORES.values(), ids=OF_SCORES)
def test_nan_and_empty_are_refused(metric):
    with pytest.raises(ValueError, match="2 of 3 unknown scores are NaN"):
        metric([0.0, 1.0], [math.nan, 1.0, math.nan])
    with pytest.raises(ValueError, match="known scores must be"):
        metric([], [1.0])


@fast
@given(known=scored(), unknown=scored(unknown=True))
def test_oscr_is_the_area_under_the_curve(known, unknown):
    correct = (known.predicted == known.label).numpy()
    cuts = [-math.inf, *np.unique(torch.cat([known.score, unknown.score]))]
    ccr = [np.mean((known.score.numpy() <= t) & correct) for t in cuts]
    fpr = [np.mean(unknown.score.numpy() <= t) for t in cuts]
    assert metrics.oscr(known, unknown) == pytest.approx(reference.auc(fpr, ccr))


@fast
@given(known=scored(), unknown=scored(unknown=True))
def test_oscr_lies_between_its_bounds(known, unknown):
    right = Scored(known.score, known.label, known.label)
    auroc = metrics.auroc(known.score, unknown.score)
    assert metrics.oscr(right, unknown) == pytest.approx(auroc)
    accuracy = metrics.accuracy(known.label, known.predicted)
    assert metrics.oscr(known, unknown) <= min(auroc, accuracy) + 1e-12


def test_macro_f1_by_hand():
    # Class 0: 1 of 2 found, never wrong: 2/3. Class 1: found, and claimed once falsely: 2/3.
    # Unknown: 1 of 2 found, and one known image rejected: 1/2.
    labels, answers = [0, 0, 1, UNKNOWN, UNKNOWN], [0, UNKNOWN, 1, 1, UNKNOWN]
    assert metrics.macro_f1(labels, answers) == pytest.approx((2 / 3 + 2 / 3 + 1 / 2) / 3)


def test_all_unknown_count_as_one_class():
    known = Scored(torch.tensor([0.0, 0.0]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    unknown = Scored(torch.ones(3), torch.tensor([7, 8, UNKNOWN]), torch.tensor([0, 1, 0]))
    assert measure(known, unknown, 0.5, ["macro_f1"]) == {"macro_f1": 1.0}


@fast
@given(known=scored(smallest=5), unknown=scored(unknown=True, smallest=5))
def test_f1_cv_unknown_equals_a_slow_search(known, unknown):
    score = torch.cat([known.score, unknown.score]).numpy()
    label = torch.cat([known.label, unknown.label]).numpy()
    predicted = torch.cat([known.predicted, unknown.predicted]).numpy()

    def f1(rows, cut):
        answers = np.where(score[rows] > cut, UNKNOWN, predicted[rows])
        return reference.f1_score(label[rows], answers, average="macro")

    splitter = StratifiedKFold(5, shuffle=True, random_state=0)
    expected, doubtful = [], False
    for others, fold in splitter.split(score, label == UNKNOWN):
        cuts = [-math.inf, *np.unique(score[others])]
        found = np.array([f1(others, cut) for cut in cuts])
        near = np.flatnonzero(np.isclose(found, found.max(), rtol=0, atol=1e-9))
        doubtful |= len(near) > 1  # a tie, which rounding may break either way
        expected.append(f1(fold, cuts[near[0]]))
    assume(not doubtful)
    assert metrics.f1_cv_unknown(known, unknown) == pytest.approx(np.mean(expected))


def test_f1_cv_unknown_needs_as_many_images_as_folds():
    few = Scored(torch.zeros(4), torch.zeros(4).long(), torch.zeros(4).long())
    with pytest.raises(ValueError, match="5 folds each; got 4 known"):
        metrics.f1_cv_unknown(few, few)


@fast
@given(known=scored(), unknown=scored(unknown=True), cut=st.integers(-6, 6))
def test_one_threshold_is_the_same_for_every_class(known, unknown, cut):
    assert torch.equal(known.answers(cut), known.answers([cut] * 3))
    assert measure(known, unknown, cut) == measure(known, unknown, [cut] * 3)


def test_a_threshold_per_class_follows_the_prediction():
    sample = Scored(torch.tensor([0.5, 0.5, 2.0]), torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1]))
    assert sample.answers([0.4, 1.0]).tolist() == [UNKNOWN, 1, UNKNOWN]
    assert sample.rejected(0.5).tolist() == [False, False, True]


OF_IMAGES = [name for name in METRICS if not name.endswith("_per_image")]


def test_measure_gives_every_metric_by_name():
    known = Scored(torch.randn(50), torch.arange(50) % 3, torch.arange(50) % 3)
    unknown = Scored(torch.randn(40) + 2, torch.full((40,), UNKNOWN), torch.arange(40) % 3)
    assert tuple(measure(known, unknown, 1.0)) == STANDARD
    assert "macro_f1" not in measure(known, unknown)
    everything = measure(known, unknown, 1.0, OF_IMAGES, training=0.5)
    of_p_values = {"known_at_p05", "unknown_at_p05"}
    assert set(everything) == set(OF_IMAGES) - of_p_values
    for part in (known, unknown):
        part.p_value = torch.linspace(0.001, 1, len(part))
    rare = measure(known, unknown, metrics=of_p_values)
    assert rare == {"known_at_p05": 3 / 50, "unknown_at_p05": 2 / 40}
    with pytest.raises(ValueError, match="segmentation sets only"):
        measure(known, unknown, metrics=["ap_per_image"])
    for name, metric in OF_SCORES.items():
        assert everything[name] == metric(known.score, unknown.score)
    with pytest.raises(ValueError, match="did you mean auroc"):
        measure(known, unknown, metrics=["aurok"])


def test_better_scores_move_every_metric_to_its_better_end():
    label = torch.arange(60) % 3
    known = Scored(torch.randn(60), label, label)
    unknown = Scored(torch.randn(60) + 1, torch.full((60,), UNKNOWN), label)
    known.p_value, unknown.p_value = torch.ones(60), torch.linspace(0, 1, 60)
    apart = Scored(unknown.score + 100, unknown.label, unknown.predicted, torch.zeros(60))
    worse = measure(known, unknown, 1.0, OF_IMAGES, training=1.0)
    better = measure(known, apart, 3.0, OF_IMAGES, training=3.0)
    for name in OF_IMAGES:
        metric = METRICS[name]
        if metric.needs_unknown:
            assert (better[name] > worse[name]) == metric.higher_is_better, name


def test_scored_refuses_different_lengths():
    with pytest.raises(ValueError, match="same N"):
        Scored(torch.zeros(3), torch.zeros(2), torch.zeros(3))
