"""The leading class of each row, and how far the others lie below it."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor


class Leading:
    """Compares the logits of each row with their largest, in few walks through all of them.

    A map has millions of logits, class by class, and each walk through them costs half a hundredth
    of a small network's pass. There argmax takes ten times as long as what stands here, and exp
    four times as long as exp2, or fifteen times where it underflows.

    Args:
        logits: `[M, K]`.
        temperature: Divides the logits.

    Example:
        >>> leading = Leading(torch.tensor([[0.0, 2.0, 2.0], [5.0, 1.0, 4.0]]))
        >>> leading.label.tolist(), leading.top.tolist()
        ([1, 0], [2.0, 5.0])
    """

    def __init__(self, logits: Tensor, temperature: float | Tensor = 1.0):
        self.logits, self.temperature = logits, temperature
        self.exporting = torch.compiler.is_exporting()
        # In nats, of which ONNX has the exponential; elsewhere in bits.
        self.unit = 1.0 if self.exporting else math.log(2)

    @cached_property
    def top(self) -> Tensor:
        """The largest logit `[M]`, not divided."""
        return self.logits.amax(1)

    @cached_property
    def label(self) -> Tensor:
        """The first class whose logit is the largest, `[M]`."""
        logits = self.logits
        if logits.is_contiguous() or not logits.is_cpu or self.exporting:
            return logits.argmax(1)
        # The first of the largest has the highest place; all others come to lie far below it, but
        # for those that differ by less than any normal number, who count as equal.
        below, classes = self.below.detach(), logits.shape[1]
        place = torch.arange(classes, 0, -1, dtype=below.dtype)[:, None]
        highest = torch.add(place, below, alpha=1 / torch.finfo(below.dtype).tiny).amax(0)
        return (classes - highest).long().clamp_(0, classes - 1)  # An index of NaN, too.

    @cached_property
    def below(self) -> Tensor:
        """The divided logits less the largest, `[K, M]`, in `unit` nats."""
        return (self.logits.T - self.top).mul_(1 / (self.unit * self.temperature))

    @cached_property
    def rest(self) -> Tensor:
        """As `below`, but the lowest number there is in the leading class's place."""
        label, below = self.label[None], self.below
        del self.below  # Should anyone ask for it again it is computed again; a copy costs more.
        return below.scatter_(0, label, torch.finfo(below.dtype).min)

    @cached_property
    def weights(self) -> Tensor:
        """Each other class's probability over the leading one's, `[K, M]`; 0 for that itself."""
        return self._powers(self.rest)

    @cached_property
    def others(self) -> Tensor:
        """The sum of `weights`, `[M]`, to which the leading class's own 1 would be too much."""
        return self.weights.sum(0)

    @property
    def unsure(self) -> Tensor:
        """1 − max softmax, `[M]`, without cancellation where the softmax saturates."""
        return self.others / (1 + self.others)

    @property
    def entropy(self) -> Tensor:
        """The entropy of the softmax in nats, `[M]`."""
        mean = (self.weights * self.rest).sum(0) / (1 + self.others)
        return self.others.log1p() - self.unit * mean

    @property
    def log_sum(self) -> Tensor:
        """log Σ exp of the divided logits less the largest, `[M]`."""
        return self._powers(self.below).sum(0).log()

    def _powers(self, x: Tensor) -> Tensor:
        return x.exp() if self.exporting else x.exp2()
