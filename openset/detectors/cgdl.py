"""CGDL: how little a latent fits any class's Gaussian, or how badly its image is drawn again."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.combinations import tippett
from openset.detectors.ranks import TailRank
from openset.detectors.rows import Rows, known
from openset.detectors.vmdls import VMDLSb
from openset.moments import Moments
from openset.spec import Amount

Rule = Literal["ranks", "latent", "reconstruction", "published"]


class CGDL(Detector):
    """Scores an image by how little its latent fits any class, or how badly it is drawn again.

    For a network trained with the objective `cgdl` or `cpgm-aae`; it reads the layers `"mean"` and
    `"error"`. Each class has one full Gaussian of the latents of its training images that are
    classified correctly (of all, where fewer than two are). The score is the larger of two −log p,
    p being the share of held-out known images whose likeliest class fits as little, or whose
    reconstruction is as bad. The label is the classifier's.

    The paper calls an image unknown if P_k < ½ for all classes k, or if its error is too large. P_k
    is 1 − ∏_j P(a known z_j lies nearer m_j): one coordinate near its mean makes it high, so that
    in 32 dimensions all points drawn three times as wide as a class are accepted, and the error
    decides nearly alone. `rule="published"` scores by it all the same: above 0 where the rule says
    unknown. Not copied is the code's box, whose size is multiplied by σ twice.

    Paper: Sun et al., *Conditional Gaussian Distribution Learning for Open Set Recognition*, 2020,
    https://arxiv.org/abs/2003.08823.

    Args:
        rule: "ranks" for both; "latent", −log of the likelihood under the likeliest class, or
            "reconstruction", the error, for one alone; "published", max(1 − 2 max_k P_k, e − 1) for
            errors that are e times the limit above their training mean, two standard deviations.
        shrinkage: Share of each covariance replaced by the mean variance times the identity.

    Example:
        >>> x, labels = torch.randn(60, 2), torch.arange(60) % 2
        >>> logits, error = torch.eye(2)[labels], torch.rand(60, 1)
        >>> seen = Activations(logits, {"mean": x + 9 * logits, "error": error}, labels)
        >>> CGDL().fit([seen]).adjust([seen])(seen).shape
        torch.Size([60])
    """

    name = "cgdl"
    layers = ("mean", "error")
    objectives = ("cgdl", "cpgm-aae")
    deviation: Tensor
    usual: Tensor

    def __init__(self, rule: Rule = "ranks", shrinkage: Amount = 1e-3):
        super().__init__()
        if rule not in get_args(Rule):
            raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}; got {rule!r}")
        self.rule: Rule = rule
        self.shrinkage = shrinkage
        self.held_out = rule == "ranks"
        self.gaussians = VMDLSb(("mean",), shrinkage)
        self.ranks = TailRank()

    def fit(self, batches: Iterable[Activations]) -> Self:
        every, right = (Rows(batches, ("mean",), correct=correct) for correct in (False, True))
        moments = Moments.of(right, right.classes)
        few = moments.count < 2
        if few.any():
            others = Moments.of(every, every.classes)
            for name, value in moments.named_buffers():
                value[few] = others.get_buffer(name)[few]
        self.gaussians.learn(moments)
        errors = Moments.of(((x, torch.zeros_like(y)) for x, y in Rows(batches, ("error",))), 1)
        usual = torch.stack([errors.mean[0, 0], errors.covariance().view(()).sqrt()])
        spread = moments.covariance().diagonal(dim1=1, dim2=2).sqrt()
        self.keep(deviation=spread.float(), usual=usual.float())
        return self

    def adjust(self, held_out: Iterable[Activations]) -> Self:
        parts = [self._parts(known(batch)) for batch in held_out]
        self.ranks.fit(torch.cat(parts).unbind(1))
        return self

    def _parts(self, rows: Activations) -> Tensor:
        """−log of the likelihood under the likeliest class, and the error, `[M, 2]`."""
        return torch.stack([self.gaussians.score(rows), rows.values("error").squeeze(1)], dim=1)

    def score(self, rows: Activations) -> Tensor:
        if self.rule == "published":
            return self._published(rows)
        parts = self._parts(rows)
        if self.rule == "ranks":
            return tippett(self.ranks(parts), parts.new_ones(2))
        return parts[:, int(self.rule == "reconstruction")]

    def inside(self, rows: Activations) -> Tensor:
        """The paper's P_k `[M, K]`: 1 at the mean of class k, 0 far out in every dimension."""
        away = (rows.values("mean")[:, None] - self.gaussians.mean).abs()
        nearer = torch.erf(away / (sqrt(2) * self.deviation.to(away).clamp_min(1e-12)))
        return 1 - nearer.prod(2)

    def _published(self, rows: Activations) -> Tensor:
        mean, deviation = self.usual.to(rows.values("error")).unbind()
        above = (rows.values("error").squeeze(1) - mean) / (2 * deviation)
        return (1 - 2 * self.inside(rows).amax(1)).maximum(above - 1)
