"""CROSR: OpenMax whose distances are of logits and reconstruction codes side by side."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from openset.activations import Activations
from openset.detectors.openmax import OpenMax

Rule = Literal["openmax", "published"]


class CROSR(OpenMax):
    """Scores an image as `OpenMax` does, by distances of its logits and codes to the class means.

    The codes hold what it takes to draw the image again, beyond what tells its class. For a network
    trained with the objective `crosr`; it reads the logits and the layer `"code"`.

    Paper: Yoshihashi et al., *Classification-Reconstruction Learning for Open-Set Recognition*,
    2019, https://arxiv.org/abs/1812.04246.

    Args:
        tail: Number of a class's largest distances that are fitted.
        alpha: Number of best classes that are revised; the published rule revises all.
        rule: "openmax" revises logits and scores the log-odds of no class, as the paper writes;
            "published" scores Σ_c p_c w_c, the probability that the authors' code takes from the
            classes by the Weibull probabilities w.

    Example:
        >>> import torch
        >>> logits = torch.eye(2).repeat(50, 1) * 9 + torch.randn(100, 2)
        >>> seen = Activations(logits, {"code": torch.rand(100, 4)}, torch.arange(100) % 2)
        >>> CROSR().fit([seen])(seen).shape
        torch.Size([100])
    """

    name = "crosr"
    objectives = ("crosr",)

    def __init__(self, tail: int = 20, alpha: int = 10, rule: Rule = "openmax"):
        super().__init__(tail, alpha, ("logits", "code"))
        if rule not in get_args(Rule):
            raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}; got {rule!r}")
        self.rule: Rule = rule

    def class_scores(self, rows: Activations) -> Tensor:
        if self.rule == "openmax":
            return super().class_scores(rows)
        return rows.logits.softmax(1) - self._taken(rows)

    def score(self, rows: Activations) -> Tensor:
        return super().score(rows) if self.rule == "openmax" else self._taken(rows).sum(1)

    def _taken(self, rows: Activations) -> Tensor:
        """The probability `[M, K]` that the published rule takes from each class."""
        outlying = self.outlying(rows.stacked(self.layers_read))
        return rows.logits.softmax(1) * outlying.to(rows.logits.dtype)
