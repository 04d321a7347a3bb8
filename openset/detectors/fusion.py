"""Several detectors as one, by how rare their scores are among known images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.combinations import COMBINATIONS, joint
from openset.detectors.gemos import GeMOS
from openset.detectors.gen import GEN
from openset.detectors.pnml import PNML
from openset.detectors.ranks import TailRank
from openset.detectors.rows import known, peek
from openset.detectors.vra import VRA
from openset.errors import unknown_name
from openset.spec import as_names

MADE_UP = 10
"""Number of made-up mistakes, alike to all members, added lest a few real ones decide."""


LEAST = 0.25
"""Least weight, as a share of the largest: mistakes do not show what far images look like."""


JOINT = 1000
"""The most held-out known images that `joint` compares with."""


def by_mistakes(surprise: Tensor) -> Tensor:
    """Weights `[detectors]` from −log p `[n, detectors]` of known images that are misclassified.

    Good, 1955, https://doi.org/10.1111/j.2517-6161.1955.tb00199.x. Among known images −log p is
    exponential with mean 1; where it is exponential with mean m, the likelihood ratio's logarithm
    is (1 − 1/m)·(−log p) but for a constant (Lehmann's alternatives, 1953). Misclassified known
    images, the nearest to unknown that known data hold, stand in for those.
    """
    mean = (surprise.sum(0) + MADE_UP * 2) / (len(surprise) + MADE_UP)
    weights = (1 - 1 / mean).clamp_min(torch.finfo(mean.dtype).tiny)
    return weights.maximum(LEAST * weights.max())


class Fusion(Detector):
    """Scores an image by the mean −log p of several detectors, each ranked among known images.

    Fisher, "Statistical Methods for Research Workers", 1932, on the p-values of Vovk et al., 2005,
    https://arxiv.org/abs/2107.07511: p = (1 + #{known scores ≥ s}) / (n + 1) among held-out known
    images, with a smooth tail (`TailRank`). Logits see that an image is like no one class, early
    features that it is like no image; ranks bring both to one scale. No unknown image is used.

    Args:
        detectors: Members, each of which must look only once; None takes `GEN`, `VRA` and `PNML`
            where the network ends in a linear layer, and `GeMOS` with 1 component on the first two
            stages. On the command line `fusion:energy+knn`, or `fusion:energy+(knn:k=10)`.
        weights: One for each member, scaled to sum 1; None for equal ones; "mistakes" learns from
            held-out known images how much each member says where the network errs.
        combine: "fisher", the mean; "harmonic" or "tippett", where the most surprised member
            decides; "guard", where the members after the first count only beyond the usual; or
            another of `openset.detectors.combinations`.

    Example:
        >>> from openset.detectors import Energy, MaxSoftmax
        >>> train, held_out = (Activations(torch.randn(50, 3), labels=torch.arange(50) % 3)
        ...                    for _ in range(2))
        >>> fusion = Fusion((Energy(), MaxSoftmax())).fit([train]).adjust([held_out])
        >>> fusion.score(held_out).shape
        torch.Size([50])
    """

    held_out = True
    learned: Tensor
    known: Tensor

    def __init__(
        self,
        detectors: Sequence[Detector] | None = None,
        weights: Sequence[float] | str | None = None,
        combine: str = "fisher",
    ):
        super().__init__()
        if combine not in (rules := (*COMBINATIONS, joint.__name__)):
            raise ValueError(unknown_name("combination", combine, rules))
        self.usual = detectors is None
        self.detectors: Any = nn.ModuleList(members(detectors))
        self.tuned_on = tuple(dict.fromkeys(x for d in self.detectors for x in d.tuned_on))
        self.weights, self.combine = weights, combine
        check_weights(weights, len(self.detectors))
        self.ranks = TailRank()
        self.layers = together([detector.layers for detector in self.detectors])

    @property
    def layers_read(self) -> tuple[str, ...] | None:
        return together([detector.layers_read for detector in self.detectors])

    def fit(self, batches: Iterable[Activations]) -> Self:
        if self.usual and peek(batches).head is None:
            kept = [each for each in self.detectors if not isinstance(each, PNML | VRA)]
            self.detectors = nn.ModuleList(kept)
        for detector in self.detectors:
            detector.fit(batches)
        return self

    def adjust(self, held_out: Iterable[Activations]) -> Self:
        for detector in self.detectors:
            if detector.held_out:
                detector.adjust(held_out)
        rows = [known(batch) for batch in held_out]
        scores = torch.cat([self._scores(part) for part in rows])
        self.ranks.fit(scores.unbind(1))
        if self.combine == joint.__name__:
            self.keep(known=self.ranks(scores[:: -(-len(scores) // JOINT)]))
        if self.weights == "mistakes":
            wrong = torch.cat([part.logits.argmax(1) != part.labels for part in rows])
            self.keep(learned=by_mistakes(self.ranks(scores)[wrong]))
        return self

    def _scores(self, rows: Activations) -> Tensor:
        return torch.stack([detector.score(rows) for detector in self.detectors], dim=1)

    def surprise(self, rows: Activations) -> Tensor:
        """−log p of each member, `[M, detectors]`."""
        return self.ranks(self._scores(rows))

    def score(self, rows: Activations) -> Tensor:
        surprise = self.surprise(rows)
        if self.combine == joint.__name__:
            return joint(surprise, self.known.to(surprise))
        if isinstance(self.weights, str):
            weights = self.learned.to(surprise)
        else:
            weights = surprise.new_tensor(self.weights or [1.0] * len(self.detectors))
        return COMBINATIONS[self.combine](surprise, weights / weights.sum())


def check_weights(weights: Sequence[float] | str | None, count: int) -> None:
    """Raises unless they are one positive number for each detector, or learned, or equal."""
    if weights is None or weights == "mistakes":
        return
    listed = isinstance(weights, Sequence) and not isinstance(weights, str)
    if not listed or not all(isinstance(weight, int | float) for weight in weights):
        raise ValueError(
            f"weights are one number for each detector, or 'mistakes'; got {weights!r}"
        )
    if len(weights) != count or min(map(float, weights)) <= 0:
        raise ValueError(
            f"weights must be above 0, one for each of {count} detectors; got {list(weights)}"
        )


def together(wanted: Sequence[Sequence[str] | None]) -> tuple[str, ...] | None:
    """The layers that some member reads, each once; None if a member has yet to choose."""
    if None in wanted:
        return None
    return tuple(dict.fromkeys(name for layers in wanted for name in as_names(layers or ())))


def members(detectors: Sequence[Detector] | None) -> list[Detector]:
    """The detectors, or those that are fused by default.

    Raises:
        ValueError: If there are fewer than two, or if one must look at the image again.
    """
    if detectors is None:
        early = GeMOS("gaussian-mixture:components=1", layers=("stage1", "stage2"))
        return [GEN(), VRA(), PNML(), early]
    if isinstance(detectors, str) or len(detectors) < 2:
        raise ValueError(f"fusion needs at least two detectors, as energy+knn; got {detectors!r}")
    for detector in detectors:
        if not isinstance(detector, Detector):
            raise ValueError(
                f"fusion takes detectors, such as Energy(); got {detector!r}; to name its members, "
                "take openset.detectors.build('fusion:energy+knn')"
            )
        if detector.looks_again:
            raise ValueError(
                f"{detector.name} looks at the image again, and the detectors of a fusion share "
                "one look; leave it out, or set its epsilon to 0"
            )
    return list(detectors)
