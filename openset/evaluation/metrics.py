"""How well scores tell known from unknown; the score's direction is higher = more unknown.

Every metric sees only the order of the scores, so it stays the same under any strictly increasing
map of them; infinite scores rank first or last, NaN is refused. "Positive" differs between papers,
so it is part of each name and docstring here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn import metrics as reference
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from openset.activations import UNKNOWN
from openset.errors import unknown_name
from openset.evaluation.best_cut import best_cut
from openset.scoring.scored import Cut, Scored

Values = Tensor | np.ndarray | Sequence[float]
"""Scores, labels or predictions `[N]` of any kind that `torch.as_tensor` takes."""


def auroc(known: Values, unknown: Values) -> float:
    """Probability that a random unknown scores higher than a random known; ties count one half.

    The same whichever side is called positive. Hanley & McNeil (1982),
    https://doi.org/10.1148/radiology.143.1.7063747.

    Example:
        >>> auroc(known=[0.1, 0.4], unknown=[0.4, 0.9])
        0.875
    """
    return float(reference.roc_auc_score(*_ranked(known, unknown)))


def aupr_known(known: Values, unknown: Values) -> float:
    """Average precision with known as positive ("AUPR-In"), found by a low score.

    Depends on how many known and unknown there are. Hendrycks & Gimpel (2017),
    https://arxiv.org/abs/1610.02136.
    """
    is_unknown, rank = _ranked(known, unknown)
    return float(reference.average_precision_score(~is_unknown, -rank))


def aupr_unknown(known: Values, unknown: Values) -> float:
    """Average precision with unknown as positive ("AUPR-Out"), found by a high score.

    Depends on how many known and unknown there are. Hendrycks & Gimpel (2017),
    https://arxiv.org/abs/1610.02136.
    """
    return float(reference.average_precision_score(*_ranked(known, unknown)))


def fpr_at_95_tpr(known: Values, unknown: Values) -> float:
    """Share of unknown accepted where 95 % of known are accepted; known is positive.

    The threshold is the smallest that accepts at least 95 % of known. This is the convention of
    ODIN (Liang et al. 2018), https://arxiv.org/abs/1706.02690, and of the papers implemented here.

    Example:
        >>> fpr_at_95_tpr(known=range(20), unknown=[18, 19, 20, 21])
        0.25
    """
    return _errors_at_95_tpr(known, unknown)[1]


def tnr_at_95_tpr(known: Values, unknown: Values) -> float:
    """Share of unknown rejected where 95 % of known are accepted: 1 − `fpr_at_95_tpr`.

    Lee et al. (2018), https://arxiv.org/abs/1807.03888.
    """
    return 1 - fpr_at_95_tpr(known, unknown)


def fpr_at_95_tpr_unknown(known: Values, unknown: Values) -> float:
    """Share of known rejected where 95 % of unknown are rejected; unknown is positive.

    The other convention under the same name, as in OpenOOD (Zhang et al. 2023),
    https://arxiv.org/abs/2306.09301.

    Example:
        >>> fpr_at_95_tpr_unknown(known=[0, 1, 2, 3], unknown=range(2, 22))
        0.25
    """
    fpr, tpr, _ = reference.roc_curve(*_ranked(known, unknown), drop_intermediate=False)
    return float(fpr[np.argmax(tpr >= 0.95)])


def detection_error(known: Values, unknown: Values) -> float:
    """Chance of a wrong answer where 95 % of known are accepted, both kinds equally likely.

    ½ · (share of known rejected) + ½ · (share of unknown accepted) at the threshold of
    `fpr_at_95_tpr`, as ODIN's text defines it (Liang et al. 2018, §3.3),
    https://arxiv.org/abs/1706.02690. ODIN's code takes the least error over all thresholds instead.
    """
    return sum(_errors_at_95_tpr(known, unknown)) / 2


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
    return float(reference.jaccard_score(_array(labels), _array(predictions), average="macro"))


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
    is_unknown, rank = _ranked(known.score, unknown.score)
    label = np.concatenate([_array(known.label), np.full(len(unknown), UNKNOWN)])
    predicted = np.concatenate([_array(known.predicted), _array(unknown.predicted)])
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    values = []
    for others, fold in splitter.split(rank, is_unknown):
        cut = best_cut(rank[others], label[others], predicted[others])
        answers = np.where(rank[fold] > cut, UNKNOWN, predicted[fold])
        values.append(macro_f1(label[fold], answers))
    return float(np.mean(values))


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
    _ranked(known.score, unknown.score)
    if not bool(correct.any()):
        return 0.0
    return float(correct.double().mean()) * auroc(known.score[correct], unknown.score)


@dataclass(frozen=True)
class Metric:
    """A metric as tables show it.

    Args:
        measure: From (known, unknown, threshold) to its value.
        title: What a column is called.
        higher_is_better: Which end is good.
        needs_unknown: Whether the value depends on the unknown set at all.
        needs_threshold: Whether the value depends on the threshold.
        of_training: Whether that threshold is the one that accepts a share of the training images.
        costly: Whether it is measured only where it is named.
    """

    measure: Callable[[Scored, Scored, Cut], float]
    title: str
    higher_is_better: bool = True
    needs_unknown: bool = True
    needs_threshold: bool = False
    of_training: bool = False
    costly: bool = False

    @property
    def head(self) -> str:
        """The title with an arrow towards the better end."""
        return f"{self.title} {'↑' if self.higher_is_better else '↓'}"


def _of_scores(metric: Callable[[Values, Values], float], title: str, up: bool = True) -> Metric:
    return Metric(lambda known, unknown, _: metric(known.score, unknown.score), title, up)


def _per_image(title: str, up: bool = True) -> Metric:
    """A metric that needs to know which pixels make an image."""

    def refuse(known: Scored, unknown: Scored, threshold: Cut) -> float:
        raise ValueError(f"{title} is measured on segmentation sets only; leave it out")

    return Metric(refuse, title, up)


def _f1_at(known: Scored, unknown: Scored, threshold: Cut) -> float:
    label = torch.cat([known.label, torch.full_like(unknown.label, UNKNOWN)])
    answers = torch.cat([known.answers(threshold), unknown.answers(threshold)])
    return macro_f1(label, answers)


METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        lambda known, _, __: accuracy(known.label, known.predicted), "Accuracy", needs_unknown=False
    ),
    "auroc": _of_scores(auroc, "AUROC"),
    "aupr_known": _of_scores(aupr_known, "AUPR known"),
    "aupr_unknown": _of_scores(aupr_unknown, "AUPR unknown"),
    "fpr_at_95_tpr": _of_scores(fpr_at_95_tpr, "FPR95", up=False),
    "tnr_at_95_tpr": _of_scores(tnr_at_95_tpr, "TNR95"),
    "detection_error": _of_scores(detection_error, "Detection error", up=False),
    "macro_f1": Metric(_f1_at, "Macro-F1", needs_threshold=True),
    "oscr": Metric(lambda known, unknown, _: oscr(known, unknown), "OSCR"),
    "fpr_at_95_tpr_unknown": _of_scores(
        fpr_at_95_tpr_unknown, "FPR95 (unknown positive)", up=False
    ),
    "f1_cv_unknown": Metric(
        lambda known, unknown, _: f1_cv_unknown(known, unknown),
        "Macro-F1 (threshold from unknown data)",
        costly=True,
    ),
    "macro_f1_train": Metric(
        _f1_at,
        "Macro-F1 (threshold from the training set)",
        needs_threshold=True,
        of_training=True,
        costly=True,
    ),
    "miou": Metric(
        lambda known, _, __: miou(known.label, known.predicted), "mIoU", needs_unknown=False
    ),
    "ap": _of_scores(ap, "AP"),
    "ap_per_image": _per_image("AP, mean over images"),
    "auroc_per_image": _per_image("AUROC, mean over images"),
    "fpr_at_95_tpr_unknown_per_image": _per_image(
        "FPR95 (unknown positive), mean over images", up=False
    ),
}


STANDARD = tuple(
    name
    for name, metric in METRICS.items()
    if not metric.costly and name not in ("miou", "ap") and not name.endswith("_per_image")
)
"""What is measured of whole images unless metrics are named: all but the pixels' own, and those
with a threshold of another kind."""


def measure(
    known: Scored,
    unknown: Scored,
    threshold: Cut | None = None,
    metrics: Iterable[str] = STANDARD,
    *,
    training: float | None = None,
) -> dict[str, float]:
    """The named metrics of one detector on one pair of known and unknown data.

    Without a threshold, the metrics that need one are left out; `training` is the one that accepts
    a share of the training images.

    Example:
        >>> known = Scored(torch.tensor([0.1, 0.4]), torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> unknown = Scored(torch.tensor([0.3, 0.9]), torch.tensor([-1, -1]), torch.tensor([1, 0]))
        >>> measure(known, unknown, threshold=0.5, metrics=["auroc", "accuracy"])
        {'auroc': 0.75, 'accuracy': 1.0}
    """
    values = {}
    for name in metrics:
        metric = find(name)
        cut = training if metric.of_training else threshold
        if metric.needs_threshold and cut is None:
            continue
        values[name] = metric.measure(known, unknown, 0.0 if cut is None else cut)
    return values


def find(name: str) -> Metric:
    """The metric of that name, or the error that suggests the nearest ones."""
    if name not in METRICS:
        raise ValueError(unknown_name("metric", name, METRICS))
    return METRICS[name]


def _array(values: Values | range) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().numpy()


def _ranked(known: Values, unknown: Values) -> tuple[np.ndarray, np.ndarray]:
    """Where a sample is unknown `[N]`, and the dense rank of its score `[N]`; known come first.

    scikit-learn refuses infinite scores; ranks let them in and keep the order exactly.
    """
    parts = [torch.as_tensor(x).detach().cpu().double().numpy() for x in (known, unknown)]
    for side, part in zip(("known", "unknown"), parts, strict=True):
        if part.ndim != 1 or not part.size:
            raise ValueError(f"{side} scores must be [N] with N ≥ 1; got shape {part.shape}")
        if broken := int(np.isnan(part).sum()):
            raise ValueError(
                f"{broken} of {part.size} {side} scores are NaN and cannot be ranked; "
                "look for NaN in the images or in the network's output"
            )
    is_unknown = np.repeat([False, True], [part.size for part in parts])
    return is_unknown, np.unique(np.concatenate(parts), return_inverse=True)[1]


def _errors_at_95_tpr(known: Values, unknown: Values) -> tuple[float, float]:
    """Shares of known rejected and unknown accepted, at the threshold accepting 95 % of known."""
    is_unknown, rank = _ranked(known, unknown)
    fpr, tpr, _ = reference.roc_curve(~is_unknown, -rank, drop_intermediate=False)
    at = np.argmax(tpr >= 0.95)
    return float(1 - tpr[at]), float(fpr[at])
