"""The metrics by name, as commands, tables and protocols use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch

from openset.activations import UNKNOWN
from openset.errors import unknown_name
from openset.evaluation.definitions import (
    accuracy,
    ap,
    aupr_known,
    aupr_unknown,
    auroc,
    detection_accuracy,
    detection_error,
    f1_cv_unknown,
    fpr_at_95_tpr,
    fpr_at_95_tpr_unknown,
    known_at_p05,
    macro_f1,
    macro_f1_train,
    miou,
    oscr,
    tnr_at_95_tpr,
    unknown_at_p05,
)
from openset.evaluation.ranking import Ranking
from openset.scoring.scored import Scored, Thresholds


class Pair:
    """The known and the unknown data that a metric is about, as one detector scored them.

    Args:
        known: Scores of known images.
        unknown: Scores of unknown images.
        threshold: The score above which an image is answered "unknown", if there is one.
        training: The score that a share of the training images stays at or below, if it is known.
    """

    def __init__(
        self,
        known: Scored,
        unknown: Scored,
        threshold: Thresholds | None = None,
        training: float | None = None,
    ):
        self.known, self.unknown = known, unknown
        self.threshold, self.training = threshold, training

    @cached_property
    def ranking(self) -> Ranking:
        """Both sorted by score, once for all metrics."""
        return Ranking.of(self.known.score, self.unknown.score)

    def macro_f1(self, threshold: Thresholds | None) -> float | None:
        """The macro-F1 of the answers at a threshold."""
        if threshold is None:
            return None
        label = torch.cat([self.known.label, torch.full_like(self.unknown.label, UNKNOWN)])
        answers = [side.answers(threshold) for side in (self.known, self.unknown)]
        return macro_f1(label, torch.cat(answers))


@dataclass(frozen=True)
class Metric:
    """A metric as tables show it.

    Args:
        function: The function that defines it; its docstring explains it in the report.
        title: The head of its column.
        measure: From a pair to its value, or None where the threshold that it needs is missing.
        figure: From a ranking to its value, where the order of the scores alone decides.
        mean_of: The metric whose mean over the images of a segmentation set it is.
        higher_is_better: Whether a higher value is better.
        needs_unknown: Whether the value depends on the unknown set at all.
        of_training: Whether it needs the threshold that accepts a share of the training images.
        by_name: Whether whole images are measured by it only where it is named.
    """

    function: Callable[..., float]
    title: str
    measure: Callable[[Pair], float | None]
    figure: Callable[[Ranking], float] | None = None
    mean_of: str = ""
    higher_is_better: bool = True
    needs_unknown: bool = True
    of_training: bool = False
    by_name: bool = False

    @property
    def head(self) -> str:
        """The title with an arrow towards the better end."""
        return f"{self.title} {'↑' if self.higher_is_better else '↓'}"

    @property
    def short_head(self) -> str:
        """The head without its convention, for a column that a screen has room for."""
        return self.head.replace(self.title, self.title.partition(" (")[0])


def _ranked(
    function: Callable[..., float],
    title: str,
    figure: Callable[[Ranking], float],
    up: bool = True,
    by_name: bool = False,
) -> Metric:
    """A metric that the order of the scores decides alone."""

    def measured(pair: Pair) -> float:
        return figure(pair.ranking)

    return Metric(function, title, measured, figure, higher_is_better=up, by_name=by_name)


def _per_image(name: str, single: Metric) -> Metric:
    """The mean of a metric over images, for which one must know which pixels make an image."""
    title = f"{single.title}, mean over images"

    def refuse(pair: Pair) -> float:
        raise ValueError(f"{title} is measured on segmentation sets only; leave it out")

    up = single.higher_is_better
    return Metric(single.function, title, refuse, None, name, up, by_name=True)


def _of_p_values(figure: Callable[..., float], scored: Scored) -> float | None:
    """A figure of p-values, or None of a model that keeps no held-out scores."""
    return None if scored.p_value is None else figure(scored.p_value)


METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        accuracy,
        "Accuracy",
        lambda pair: accuracy(pair.known.label, pair.known.predicted),
        needs_unknown=False,
    ),
    "auroc": _ranked(auroc, "AUROC", Ranking.auroc),
    "aupr_known": _ranked(aupr_known, "AUPR known", Ranking.aupr_known),
    "aupr_unknown": _ranked(aupr_unknown, "AUPR unknown", Ranking.aupr_unknown),
    "fpr_at_95_tpr": _ranked(
        fpr_at_95_tpr, "FPR95 (known positive)", Ranking.fpr_at_95_tpr, up=False
    ),
    "tnr_at_95_tpr": _ranked(tnr_at_95_tpr, "TNR95 (known positive)", Ranking.tnr_at_95_tpr),
    "detection_error": _ranked(
        detection_error, "Detection error", Ranking.detection_error, up=False
    ),
    "detection_accuracy": _ranked(
        detection_accuracy,
        "Detection accuracy (best threshold)",
        Ranking.detection_accuracy,
        by_name=True,
    ),
    "macro_f1": Metric(macro_f1, "Macro-F1", lambda pair: pair.macro_f1(pair.threshold)),
    "oscr": Metric(oscr, "OSCR", lambda pair: oscr(pair.known, pair.unknown)),
    "fpr_at_95_tpr_unknown": _ranked(
        fpr_at_95_tpr_unknown,
        "FPR95 (unknown positive)",
        Ranking.fpr_at_95_tpr_unknown,
        up=False,
    ),
    "f1_cv_unknown": Metric(
        f1_cv_unknown,
        "Macro-F1 (threshold from unknown data)",
        lambda pair: f1_cv_unknown(pair.known, pair.unknown),
        by_name=True,
    ),
    "macro_f1_train": Metric(
        macro_f1_train,
        "Macro-F1 (threshold from the training set)",
        lambda pair: pair.macro_f1(pair.training),
        of_training=True,
        by_name=True,
    ),
    "miou": Metric(
        miou,
        "mIoU",
        lambda pair: miou(pair.known.label, pair.known.predicted),
        needs_unknown=False,
        by_name=True,
    ),
    "ap": _ranked(ap, "AP", Ranking.aupr_unknown, by_name=True),
    "known_at_p05": Metric(
        known_at_p05,
        "Known with p ≤ 0.05",
        lambda pair: _of_p_values(known_at_p05, pair.known),
        higher_is_better=False,
        needs_unknown=False,
        by_name=True,
    ),
    "unknown_at_p05": Metric(
        unknown_at_p05,
        "Unknown with p ≤ 0.05",
        lambda pair: _of_p_values(unknown_at_p05, pair.unknown),
        by_name=True,
    ),
}

METRICS |= {
    f"{name}_per_image": _per_image(name, METRICS[name])
    for name in ("ap", "auroc", "fpr_at_95_tpr_unknown")
}


STANDARD = tuple(name for name, metric in METRICS.items() if not metric.by_name)
"""Measured of whole images unless metrics are named."""


PIXEL = (
    "miou",
    "ap",
    "auroc",
    "fpr_at_95_tpr_unknown",
    "fpr_at_95_tpr",
    "ap_per_image",
    "auroc_per_image",
    "fpr_at_95_tpr_unknown_per_image",
)
"""Measured where pixels are labelled, in this order."""


def measure(
    known: Scored,
    unknown: Scored,
    threshold: Thresholds | None = None,
    metrics: Iterable[str] = STANDARD,
    *,
    training: float | None = None,
) -> dict[str, float]:
    """Measures one detector on one pair of known and unknown data, by the named metrics.

    Without a threshold, the metrics that need one are left out; `training` is the one that accepts
    a share of the training images.

    Example:
        >>> known = Scored(torch.tensor([0.1, 0.4]), torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> unknown = Scored(torch.tensor([0.3, 0.9]), torch.tensor([-1, -1]), torch.tensor([1, 0]))
        >>> measure(known, unknown, threshold=0.5, metrics=["auroc", "accuracy"])
        {'auroc': 0.75, 'accuracy': 1.0}
    """
    pair = Pair(known, unknown, threshold, training)
    found = {name: find(name).measure(pair) for name in metrics}
    return {name: value for name, value in found.items() if value is not None}


def find(name: str) -> Metric:
    """Finds a metric by its name, or raises the error that suggests the nearest ones."""
    if name not in METRICS:
        raise ValueError(unknown_name("metric", name, METRICS))
    return METRICS[name]
