"""Scores that need nothing but the logits of a trained classifier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.leading import Leading
from openset.detectors.rows import known


class OfLogits(Detector):
    """A score of how the logits of each row compare, from the walks that find its label."""

    temperature: float | Tensor

    def score(self, rows: Activations) -> Tensor:
        return self.compared(self._leading(rows))

    def judge(self, rows: Activations) -> tuple[Tensor, Tensor]:
        leading = self._leading(rows)
        return leading.label, self.compared(leading)

    def compared(self, leading: Leading) -> Tensor:
        """The score `[M]`."""
        raise NotImplementedError

    def _leading(self, rows: Activations) -> Leading:
        return Leading(rows.logits, self.temperature)


class MaxSoftmax(OfLogits):
    """Scores an image by one minus its largest class probability.

    Hendrycks & Gimpel, 2017, https://arxiv.org/abs/1610.02136. The difference to one is computed
    without cancellation, so that saturated probabilities still rank.

    Args:
        temperature: Divides the logits; above 1 it softens the probabilities.

    Example:
        >>> rows = Activations(torch.tensor([[9.0, 0.0], [1.0, 0.9]]))
        >>> [round(s, 4) for s in MaxSoftmax().score(rows).tolist()]
        [0.0001, 0.475]
    """

    name = "msp"

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        self.temperature = positive(temperature, "temperature")

    def compared(self, leading: Leading) -> Tensor:
        return leading.unsure


class MaxLogit(OfLogits):
    """Scores an image by the negative of its largest logit, whose size a softmax divides away.

    Hendrycks et al., 2022, https://arxiv.org/abs/1911.11132.

    Example:
        >>> MaxLogit().score(Activations(torch.tensor([[3.0, 1.0], [0.5, 0.2]]))).tolist()
        [-3.0, -0.5]
    """

    temperature = 1.0

    def compared(self, leading: Leading) -> Tensor:
        return -leading.top


class Entropy(OfLogits):
    """Scores an image by the entropy of its class probabilities, in nats.

    Max-entropy scoring as in Chan et al., 2021, https://arxiv.org/abs/2012.06575.

    Args:
        temperature: Divides the logits; above 1 it softens the probabilities.

    Example:
        >>> Entropy().score(Activations(torch.zeros(1, 2))).exp().tolist()
        [2.0]
    """

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        self.temperature = positive(temperature, "temperature")

    def compared(self, leading: Leading) -> Tensor:
        return leading.entropy


class Energy(OfLogits):
    """Scores an image by its free energy −T·log Σ exp(logit / T), low where some class fits well.

    Liu et al., 2020, https://arxiv.org/abs/2010.03759.

    Args:
        temperature: T, in units of the logits.

    Example:
        >>> Energy().score(Activations(torch.zeros(1, 4))).exp().tolist()
        [0.25]
    """

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        self.temperature = positive(temperature, "temperature")

    def compared(self, leading: Leading) -> Tensor:
        return -(leading.top + self.temperature * leading.log_sum)


class Temperature(OfLogits):
    """Scores an image as `MaxSoftmax` does, at the temperature that calibrates the classifier.

    Guo et al., 2017, https://arxiv.org/abs/1706.04599: T minimises the negative log-likelihood of
    known labels. `fit` finds it on whatever it is given; `adjust` finds it again on held-out known
    data, where an overfitted network is no longer sure of everything.

    Example:
        >>> batch = Activations(torch.eye(3).repeat(4, 1) * 9, labels=torch.tensor([0, 1, 2] * 4))
        >>> Temperature().fit([batch]).temperature.item() < 1
        True
    """

    temperature: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    held_out = True

    def fit(self, batches: Iterable[Activations]) -> Self:
        from scipy.optimize import minimize_scalar  # Slow to import.

        parts = [known(batch) for batch in batches]
        logits = torch.cat([part.logits for part in parts]).double()
        labels = torch.cat([part.labels for part in parts if part.labels is not None])

        def loss(log_temperature: float) -> float:
            return F.cross_entropy(logits / torch.tensor(log_temperature).exp(), labels).item()

        best: Any = minimize_scalar(
            loss, bounds=(-4.0, 4.0), method="bounded", options={"xatol": 1e-6}
        )
        self.keep(temperature=logits.new_tensor(best.x).exp())
        return self

    def adjust(self, held_out: Iterable[Activations]) -> Self:
        return self.fit(held_out)

    def compared(self, leading: Leading) -> Tensor:
        return leading.unsure


def log_unsure(logits: Tensor) -> Tensor:
    """Log of 1 − max softmax, `[M, K]` → `[M]`, exact where the softmax saturates."""
    top = logits.max(1, keepdim=True)
    others = logits.scatter(1, top.indices, -torch.inf).logsumexp(1)
    return F.logsigmoid(others - top.values.squeeze(1))


def positive(value: float, what: str) -> float:
    """The value, if it is above zero."""
    if not value > 0:
        raise ValueError(f"{what} must be above 0; got {value}")
    return value
