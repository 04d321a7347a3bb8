"""Several opinions of one image, and how far they differ: MC dropout and deep ensembles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, head_of, peek
from openset.extractors.base import Extractor
from openset.extractors.dropouts import Dropouts
from openset.extractors.tap import Tap
from openset.sampling import dropout_masks

Measure = Literal["mutual-information", "entropy", "variance", "max"]


class Committee(Detector):
    """Base of detectors that hear several members, each with logits of its own.

    With p_t the probabilities of member t and p̄ their mean, `measure` is the mutual information
    H(p̄) − mean H(p_t) in nats, the entropy H(p̄), the variance Σ_c var p_t,c or 1 − max p̄. The label
    is the likeliest by p̄.
    """

    def __init__(self, measure: Measure = "mutual-information"):
        super().__init__()
        if measure not in get_args(Measure):
            raise ValueError(
                f"measure must be one of {', '.join(get_args(Measure))}; got {measure!r}"
            )
        self.measure: Measure = measure

    def members(self, rows: Activations) -> Iterator[Tensor]:
        """The logits `[M, K]` of one member after another."""
        raise NotImplementedError

    def score(self, rows: Activations) -> Tensor:
        mean, square, negentropy = self._moments(rows)
        entropy = -torch.special.xlogy(mean, mean).sum(1)
        score = {
            "mutual-information": entropy + negentropy,
            "entropy": entropy,
            "variance": (square - mean.square()).sum(1),
            "max": 1 - mean.amax(1),
        }[self.measure]
        return score.to(rows.logits.dtype)

    def class_scores(self, rows: Activations) -> Tensor:
        return self._moments(rows)[0].to(rows.logits.dtype)

    def _moments(self, rows: Activations) -> tuple[Tensor, Tensor, Tensor]:
        """Means over the members of p `[M, K]`, of p² `[M, K]` and of Σ p log p `[M]`."""
        # What sure members differ by is less than single precision holds of a probability.
        exact = torch.float32 if rows.logits.device.type == "mps" else torch.float64
        mean = square = torch.zeros_like(rows.logits, dtype=exact)
        negentropy, count = mean[:, 0], 0
        for logits in self.members(rows):
            log_p = logits.to(exact).log_softmax(1)
            p = log_p.exp()
            mean, square = mean + p, square + p.square()
            negentropy, count = negentropy + (p * log_p).sum(1), count + 1
        return mean / count, square / count, negentropy / count


class MCDropout(Committee):
    """Scores an image by how far sub-networks differ that each leave out some last features.

    Dropout stays on before the network's last linear layer. The masks are drawn once from a seed
    and are the same for every image, so that they make a fixed ensemble: a score depends on its own
    image alone and can be exported. The network need not have been trained with dropout, and runs
    once: only its last layer is repeated. Whole images and pixels alike. With `whole` the network's
    own dropout modules stay on instead, which takes a pass for each mask and has no export.

    Paper: Gal & Ghahramani, *Dropout as a Bayesian Approximation*, 2016,
    https://arxiv.org/abs/1506.02142; the mutual information by Houlsby et al., 2011,
    https://arxiv.org/abs/1112.5745.

    Args:
        measure: "mutual-information", "entropy", "variance" or "max".
        samples: Number of masks.
        rate: Share of the features that each leaves out; with `whole` it is the network's own.
        seed: Seed of the masks.
        whole: Leave on the network's own dropout, as `Dropouts` does.

    Example:
        >>> head = torch.eye(2, 4), torch.zeros(2)
        >>> seen = Activations(torch.zeros(3, 2), {"penultimate": torch.rand(3, 4)}, head=head)
        >>> MCDropout(samples=5).fit([seen])(seen).shape
        torch.Size([3])
    """

    name = "mc-dropout"
    masks: Tensor

    def __init__(
        self,
        measure: Measure = "mutual-information",
        samples: int = 40,
        rate: float = 0.5,
        seed: int = 0,
        whole: bool = False,
    ):
        super().__init__(measure)
        if samples < 1 or not 0 <= rate < 1:
            raise ValueError(
                f"samples must be at least 1 and rate in 0…1, below 1; got {samples} and {rate}"
            )
        self.samples, self.rate, self.seed, self.whole = samples, rate, seed, whole
        self.looks_again = whole
        self.layers = () if whole else ("penultimate",)

    def view(self, tap: Tap) -> Extractor:
        return Dropouts(tap, self.samples, self.seed) if self.whole else tap

    def fit(self, batches: Iterable[Activations]) -> Self:
        """Draws the masks, for as many features as there are; nothing else is learned."""
        first = peek(Rows(batches, ()).batches)
        width = 0 if self.whole else first.values("penultimate").shape[1]
        masks = dropout_masks(self.samples, width, self.rate, self.seed)
        self.keep(masks=masks.to(first.logits.device))
        return self

    def members(self, rows: Activations) -> Iterator[Tensor]:
        if self.whole:
            yield from rows.values("members").split(rows.logits.shape[1], dim=1)
            return
        weight, bias = head_of(rows, self)
        features = rows.values("penultimate")
        for mask in self.masks.to(features):
            yield F.linear(features, weight * mask, bias)


class DeepEnsemble(Committee):
    """Scores an image by how far networks differ that were trained from different weights.

    For a network trained with the objective `deep-ensemble`, or made by `networks.ensemble` of some
    that are trained already; it reads the layer `"members"`. Whole images and pixels alike.

    Paper: Lakshminarayanan et al., *Simple and Scalable Predictive Uncertainty Estimation using
    Deep Ensembles*, 2017, https://arxiv.org/abs/1612.01474.

    Args:
        measure: "mutual-information", "entropy", "variance" or "max".

    Example:
        >>> same, other = torch.tensor([[9.0, 0.0, 9.0, 0.0]]), torch.tensor([[9.0, 0.0, 0.0, 9.0]])
        >>> seen = [Activations(torch.zeros(1, 2), {"members": x}) for x in (same, other)]
        >>> [round(DeepEnsemble()(each).item(), 3) for each in seen]
        [0.0, 0.692]
    """

    layers = ("members",)
    objectives = ("deep-ensemble",)

    def members(self, rows: Activations) -> Iterator[Tensor]:
        yield from rows.values("members").split(rows.logits.shape[1], dim=1)
