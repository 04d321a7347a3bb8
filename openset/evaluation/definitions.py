"""The definition of each metric: how well scores tell known from unknown, higher = more unknown.

Every metric sees only the order of the scores, so it stays the same under any strictly increasing
map of them; infinite scores rank first or last, NaN is refused. "Positive" differs between papers,
so it is part of each name and docstring here.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn import metrics as reference
from sklearn.model_selection import StratifiedKFold

from openset.activations import UNKNOWN
from openset.evaluation.best_threshold import best_threshold
from openset.evaluation.ranking import Ranking, Values, ranks
from openset.scoring.scored import Scored


def auroc(known: Values, unknown: Values) -> float:
    """Probability that a random unknown scores higher than a random known; ties count one half.

    The same whichever side is called positive. Hanley & McNeil (1982),
    https://doi.org/10.1148/radiology.143.1.7063747.

    Example:
        >>> auroc(known=[0.1, 0.4], unknown=[0.4, 0.9])
        0.875
    """
    return Ranking.of(known, unknown).auroc()


def aupr_known(known: Values, unknown: Values) -> float:
    """Average precision with known as positive ("AUPR-In"), found by a low score.

    Depends on how many known and unknown there are. Hendrycks & Gimpel (2017),
    https://arxiv.org/abs/1610.02136.
    """
    return Ranking.of(known, unknown).aupr_known()


def aupr_unknown(known: Values, unknown: Values) -> float:
    """Average precision with unknown as positive ("AUPR-Out"), found by a high score.

    Depends on how many known and unknown there are. Hendrycks & Gimpel (2017),
    https://arxiv.org/abs/1610.02136.
    """
    return Ranking.of(known, unknown).aupr_unknown()


def fpr_at_95_tpr(known: Values, unknown: Values) -> float:
    """Share of unknown accepted where 95 % of known are accepted; known is positive.

    The threshold is the smallest that accepts at least 95 % of known. This is the convention of
    ODIN (Liang et al. 2018), https://arxiv.org/abs/1706.02690, and of the papers implemented here.

    Example:
        >>> fpr_at_95_tpr(known=range(20), unknown=[18, 19, 20, 21])
        0.25
    """
    return Ranking.of(known, unknown).fpr_at_95_tpr()


def tnr_at_95_tpr(known: Values, unknown: Values) -> float:
    """Share of unknown rejected where 95 % of known are accepted: 1 − `fpr_at_95_tpr`.

    Lee et al. (2018), https://arxiv.org/abs/1807.03888.
    """
    return Ranking.of(known, unknown).tnr_at_95_tpr()


def fpr_at_95_tpr_unknown(known: Values, unknown: Values) -> float:
    """Share of known rejected where 95 % of unknown are rejected; unknown is positive.

    The other convention under the same name, as in OpenOOD (Zhang et al. 2023),
    https://arxiv.org/abs/2306.09301.

    Example:
        >>> fpr_at_95_tpr_unknown(known=[0, 1, 2, 3], unknown=range(2, 22))
        0.25
    """
    return Ranking.of(known, unknown).fpr_at_95_tpr_unknown()


def detection_error(known: Values, unknown: Values) -> float:
    """Chance of a wrong answer where 95 % of known are accepted, both kinds equally likely.

    ½ · (share of known rejected) + ½ · (share of unknown accepted) at the threshold of
    `fpr_at_95_tpr`, as ODIN's text defines it (Liang et al. 2018, §3.3),
    https://arxiv.org/abs/1706.02690. ODIN's code takes the least error over all thresholds instead.
    """
    return Ranking.of(known, unknown).detection_error()


def detection_accuracy(known: Values, unknown: Values) -> float:
    """Best chance of a right answer over all thresholds, both kinds equally likely.

    The threshold is picked with unknown data at hand, so it is an upper bound, for comparison with
    papers that print it: Lee et al. (2018), https://arxiv.org/abs/1711.09325, and Grcić et al.
    (2021), https://arxiv.org/abs/2011.11094, Table 1.

    Example:
        >>> detection_accuracy(known=[0, 1, 2, 3], unknown=[2, 3, 4, 5])
        0.75
    """
    return Ranking.of(known, unknown).detection_accuracy()


def accuracy(labels: Values, predictions: Values) -> float:
    """Share of known images whose predicted class is the true one, without any rejection."""
    return float(reference.accuracy_score(_array(labels), _array(predictions)))


def miou(labels: Values, predictions: Values) -> float:
    """Mean over the known classes of intersection over union, of all known pixels pooled.

    A class that is neither true nor predicted anywhere is left out. Everingham et al. (2010),
    https://doi.org/10.1007/s11263-009-0275-4.

    Example:
        >>> miou(labels=[0, 0, 1], predictions=[0, 1, 1])
        0.5
    """
    label, predicted = _array(labels), _array(predictions)
    classes = int(max(label.max(), predicted.max())) + 1
    return mean_iou(confusion(label, predicted, classes))


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts of each true class by predicted class `[K, K]`; what is no known class is left out."""
    known = labels >= 0
    pairs = labels[known] * classes + predictions[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean intersection over union of the classes that occur or were predicted, from counts."""
    hits = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hits
    return float(np.mean(hits[union > 0] / union[union > 0]))


def ap(known: Values, unknown: Values) -> float:
    """Average precision with unknown as positive, as segmentation papers call `aupr_unknown`.

    Depends on how many pixels are unknown. Blum et al. (2019), https://arxiv.org/abs/1904.03215.
    """
    return aupr_unknown(known, unknown)


def macro_f1(labels: Values, predictions: Values) -> float:
    """Mean F1 of the known classes and of the unknown as one class more, each counting the same.

    Args:
        labels: True class `[N]`; `UNKNOWN` for all that is none of the known classes.
        predictions: Answer `[N]`, a class or `UNKNOWN`, as `Scored.answers` gives it.

    A class that is neither true nor answered anywhere is left out. As in VMDLS's tables 2 and 3
    (Dinari & Freifeld 2022), https://openreview.net/forum?id=ScLeuUUi9gq, where the threshold
    accepts 95 % of the training set.

    Example:
        >>> macro_f1(labels=[0, 0, 1, -1], predictions=[0, -1, 1, -1])
        0.7777777777777777
    """
    return float(reference.f1_score(_array(labels), _array(predictions), average="macro"))


def macro_f1_train(labels: Values, predictions: Values) -> float:
    """`macro_f1` at the threshold that accepts 95 % of the training images.

    As in VMDLS's tables 2 and 3 and those it compares with (Dinari & Freifeld 2022, §4),
    https://proceedings.mlr.press/v180/dinari22a.html. A detector knows its training images, so it
    accepts fewer new ones than that share, unless it judges each as if it had been left out
    (`Detector.training_score`). At most 10,000 of them are looked at, evenly drawn.
    """
    return macro_f1(labels, predictions)


def f1_cv_unknown(known: Scored, unknown: Scored, folds: int = 5, seed: int = 0) -> float:
    """Macro-F1 at thresholds picked with unknown data; an upper bound, for comparison only.

    GeMOS's protocol (Vendramini et al. 2021, §4), https://arxiv.org/abs/2105.10013: five-fold
    cross-validation, with known and unknown in every fold; the threshold that is best on the other
    folds is used on the one left out, and the folds' macro-F1 is averaged.

    Raises:
        ValueError: If there are fewer known or unknown images than folds.
    """
    if min(len(known), len(unknown)) < folds:
        raise ValueError(
            f"f1_cv_unknown splits known and unknown into {folds} folds each; got {len(known)} "
            f"known and {len(unknown)} unknown images; give at least {folds} of both"
        )
    is_unknown, rank = ranks(known.score, unknown.score)
    label = np.concatenate([_array(known.label), np.full(len(unknown), UNKNOWN)])
    predicted = np.concatenate([_array(known.predicted), _array(unknown.predicted)])
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    values = []
    for others, fold in splitter.split(rank, is_unknown):
        highest = best_threshold(rank[others], label[others], predicted[others])
        answers = np.where(rank[fold] > highest, UNKNOWN, predicted[fold])
        values.append(macro_f1(label[fold], answers))
    return float(np.mean(values))


def known_at_p05(p_values: Values) -> float:
    """Share of known images with p ≤ 0.05; at most 0.05 on average, which a p-value promises.

    Over draws of the held-out images that the p-values rest on; of one draw it may lie above.
    Vovk et al. (2005), https://doi.org/10.1007/b106715.

    Example:
        >>> known_at_p05([0.02, 0.4, 0.9, 1.0])
        0.25
    """
    return float((_array(p_values) <= 0.05).mean())


def unknown_at_p05(p_values: Values) -> float:
    """Share of unknown images with p ≤ 0.05: what is found at 5 % false alarms.

    Vovk et al. (2005), https://doi.org/10.1007/b106715.
    """
    return known_at_p05(p_values)


def oscr(known: Scored, unknown: Scored) -> float:
    """Area under the correct classification rate against the false positive rate.

    At a threshold t, CCR = share of known that are accepted (score ≤ t) *and* classified correctly,
    FPR = share of unknown accepted. The curve runs over all t and is joined by straight lines, so a
    tie counts one half: the area is the probability that a random known is classified correctly and
    scores below a random unknown. It is accuracy · AUROC of the correct ones. Dhamija et al.
    (2018), https://arxiv.org/abs/1811.04110; the area as in Chen et al. (2021),
    https://arxiv.org/abs/2103.00953.
    """
    correct = known.predicted == known.label
    ranks(known.score, unknown.score)  # Which refuses NaN.
    if not bool(correct.any()):
        return 0.0
    return float(correct.double().mean()) * auroc(known.score[correct], unknown.score)


def _array(values: Values | range) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().numpy()
