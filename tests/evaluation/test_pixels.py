"""Pixel metrics against scikit-learn on all pixels, beyond memory too, and against the clock."""

import time

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from openset.activations import UNKNOWN, VOID
from openset.evaluation.pixels import Pixels, PixelSample
from openset.scoring.answers import Answer
from openset.scoring.scored import Scored

NAMES = ["auroc", "ap", "fpr_at_95_tpr_unknown", "fpr_at_95_tpr"]


def pictures(n=6, side=32, seed=0, ties=False):
    """Scores of which the unknown are higher, label maps with unknown and void, predictions."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (n, side, side), generator=generator)
    label[:, :8, :8] = UNKNOWN
    label[:, -3:] = VOID
    score = torch.randn(n, side, side, generator=generator) + 1.5 * (label == UNKNOWN)
    score[:, 8:12] *= -0.0
    if ties:
        score = (4 * score).round()
    predicted = torch.where(torch.rand(label.shape, generator=generator) < 0.7, label, 0)
    return score, label, predicted.clamp_min(0)


def by_scikit_learn(score, label):
    keep = label != VOID
    truth, score = (label[keep] == UNKNOWN).numpy(), score[keep].numpy()
    fpr, tpr, _ = reference.roc_curve(truth, score, drop_intermediate=False)
    wrong, right, _ = reference.roc_curve(~truth, -score, drop_intermediate=False)
    return {
        "auroc": reference.roc_auc_score(truth, score),
        "ap": reference.average_precision_score(truth, score),
        "fpr_at_95_tpr_unknown": fpr[np.argmax(tpr >= 0.95)],
        "fpr_at_95_tpr": wrong[np.argmax(right >= 0.95)],
    }


def collected(score, label, predicted, **how):
    """Feeds `Pixels` batches of two images."""
    found, image = Pixels(**how), torch.rand(2, 3, *label.shape[1:])
    for i in range(0, len(score), 2):
        scored = Scored(score[i : i + 2], label[i : i + 2], predicted[i : i + 2])
        found.add(Answer("", image, scored, classes=3))
    return found


def measured(score, label, predicted, names=NAMES, **how):
    found = collected(score, label, predicted, **how)
    found.close()
    return {name: found.figures[name] for name in names}


@pytest.mark.parametrize("ties", [False, True])
def test_pooled_figures_are_scikit_learns(ties):
    score, label, predicted = pictures(ties=ties)
    found = measured(score, label, predicted)
    assert found == pytest.approx(by_scikit_learn(score, label), abs=1e-12)


def test_per_image_figures_are_means_of_scikit_learns():
    score, label, predicted = pictures()
    label[3][label[3] == UNKNOWN] = 0  # No unknown pixel, so no figure of its own.
    names = [f"{name}_per_image" for name in NAMES[:3]]
    found = measured(score, label, predicted, names)
    single = [by_scikit_learn(score[i], label[i]) for i in (0, 1, 2, 4, 5)]
    for name in NAMES[:3]:
        expected = np.mean([figures[name] for figures in single])
        assert found[f"{name}_per_image"] == pytest.approx(expected, abs=1e-12)


def test_mean_intersection_over_union_is_that_of_known_pixels():
    score, label, predicted = pictures()
    known = label >= 0
    expected = reference.jaccard_score(label[known], predicted[known], average="macro")
    assert measured(score, label, predicted, ["miou"])["miou"] == pytest.approx(expected)


def test_a_label_beyond_the_classes_is_refused():
    score, label, predicted = pictures()
    label[0, 0, 0] = 9
    with pytest.raises(ValueError, match="label 9 is outside 0…"):
        collected(score, label, predicted)


def test_beyond_memory_the_bins_stay_close():
    score, label, predicted = pictures(n=40)
    binned = collected(score, label, predicted, held=10_000, bins=2_000)
    assert binned.pooled.edges is not None
    assert sum(map(len, binned.pooled.waiting)) <= 10_000
    binned.close()
    found = {name: binned.figures[name] for name in NAMES}
    assert found == pytest.approx(by_scikit_learn(score, label), abs=5e-3)
    assert found != measured(score, label, predicted)


def test_one_kind_of_pixels_gives_no_figure():
    score, label, predicted = pictures()
    known = label.masked_fill(label == UNKNOWN, VOID)
    found = collected(score, known, predicted)
    found.close()
    assert found.figures.keys() == {"miou"}


def test_infinite_scores_rank_and_nan_is_refused():
    score, label, predicted = pictures()
    score[0, 0, :2] = torch.tensor([torch.inf, -torch.inf])
    finite = score.nan_to_num(posinf=1e9, neginf=-1e9)
    found = measured(score, label, predicted)
    assert found == pytest.approx(by_scikit_learn(finite, label), abs=1e-12)
    score[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        collected(score, label, predicted)


def test_detectors_share_the_pixels_that_the_report_shows():
    score, label, predicted = pictures()
    sample, image = PixelSample(images=6), torch.rand(6, 3, 32, 32)
    seen = [Pixels(sample=sample) for _ in range(2)]
    for each, scores in zip(seen, (score, -score), strict=True):
        each.add(Answer("", image, Scored(scores, label, predicted), classes=3))
        each.close()
    for kind in (True, False):
        one, other = (each.scored(unknown=kind) for each in seen)
        assert one.score.equal(-other.score)
        assert len(one) == min(6 * sample.share, int(((label == UNKNOWN) == kind).sum()))
    assert seen[0].maps[0].image.equal((image[0] * 255).round().byte())
    assert seen[0].maps[0].score.equal(score[0])


@pytest.mark.slow
def test_a_hundred_large_images_take_seconds():
    label = torch.zeros(4, 512, 1024).long()
    label[:, :60, :60] = UNKNOWN
    scored = Scored(torch.rand(4, 512, 1024), label, torch.zeros_like(label))
    answer = Answer("", torch.rand(4, 3, 512, 1024), scored, classes=1)
    found = Pixels()
    started = time.perf_counter()
    for _ in range(25):
        found.add(answer)
    found.close()
    assert time.perf_counter() - started < 60
