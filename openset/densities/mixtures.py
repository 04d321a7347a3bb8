"""Rows of many classes as padded tensors, and mixtures of Gaussians of many classes at once."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

HOPELESS = 30.0
"""Nats behind a row's best component from which a component's share, below 1e-13, is ignored."""


WIDE = 128
"""Number of features from which products are done in blocks of features, to skip zeros."""


@dataclass
class Piece:
    """Rows `[B, n, D]` of the classes `which` `[B]`; `mask` `[B, n]` is False on padding."""

    which: Tensor
    rows: Tensor
    mask: Tensor

    @classmethod
    def of(cls, x: Tensor, labels: Tensor) -> Piece:
        """Groups rows `[M, D]` by their labels `[M]`."""
        which, inverse, sizes = labels.unique(return_inverse=True, return_counts=True)
        rows = x[inverse.argsort(stable=True)].split(sizes.tolist())
        mask = torch.arange(int(sizes.max()), device=x.device) < sizes[:, None]
        return cls(which, torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), mask)

    def __getitem__(self, keep: Tensor) -> Piece:
        if bool(keep.all()):
            return self
        return Piece(self.which[keep], self.rows[keep], self.mask[keep])


@dataclass
class Mixtures:
    """Log weights `[B, K]`, means `[B, K, D]` and precision factors of B mixtures.

    The factor P has Σ⁻¹ = P Pᵀ: `[B, K, D, D]` upper triangular for "full", `[B, 1, D, D]` for
    "tied", and one over the standard deviations, `[B, K, D]`, for "diag".
    """

    weight: Tensor
    mean: Tensor
    factor: Tensor

    def __getitem__(self, index) -> Mixtures:
        return Mixtures(self.weight[index], self.mean[index], self.factor[index])

    def __setitem__(self, index, other: Mixtures) -> None:
        for name in ("weight", "mean", "factor"):
            mine = getattr(self, name)
            mine[index] = getattr(other, name).to(mine)

    def log_joint(self, x: Tensor) -> Tensor:
        """log π_k + log N(x | μ_k, Σ_k) of rows `[B, n, D]`, `[B, n, K]`."""
        squares = self._diagonal(x) if self.factor.dim() == 3 else self._full(x)
        return (self._constant()[:, None] - squares / 2).to(x.dtype)

    def _constant(self) -> Tensor:
        """The part of `log_joint` that does not depend on the row, `[B, K]`."""
        factor = self.factor
        deviations = factor if factor.dim() == 3 else factor.diagonal(dim1=-2, dim2=-1)
        volume = self.mean.shape[-1] / 2 * math.log(2 * math.pi)
        return self.weight + deviations.log().sum(-1) - volume

    def _diagonal(self, x: Tensor) -> Tensor:
        # Two products instead of all differences; float64, because they cancel. Few components
        # times many rows is twice as fast as many rows times few components.
        x, precision, mean = x.double(), self.factor.double().square(), self.mean.double()
        squares = precision @ x.square().mT - 2 * (mean * precision) @ x.mT
        return (squares.mT + (mean.square() * precision).sum(-1)[:, None]).clamp_min(0)

    def _full(self, x: Tensor) -> Tensor:
        squares = []
        for k in range(self.mean.shape[1]):
            factor, offset = self._whitening(k)
            parts = [
                _norm(
                    torch.baddbmm(offset[..., low:high], x[..., :high], factor[:, :high, low:high])
                )
                for low, high in blocks(x.shape[-1])
            ]
            squares.append(sum(parts))
        return torch.stack(squares, dim=-1)

    def _whitening(self, k: int) -> tuple[Tensor, Tensor]:
        """Factor `[B, D, D]` and offset `[B, 1, D]` that make component k a standard normal."""
        factor = self.factor[:, min(k, self.factor.shape[1] - 1)]
        return factor, -self.mean[:, k : k + 1] @ factor

    def expect(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """Responsibilities `[B, n, K]` and each class's summed log-likelihood `[B]`."""
        if self.factor.dim() == 4 and piece.rows.shape[2] >= WIDE:
            classes = range(len(piece.rows))
            joint = torch.stack([self[b : b + 1]._hopeful(piece.rows[b]) for b in classes])
        else:
            joint = self.log_joint(piece.rows)
        total = joint.logsumexp(-1, keepdim=True)
        share = (joint - total).exp() * piece.mask[..., None]
        return share, (total.squeeze(-1).double() * piece.mask).sum(-1)

    def _hopeful(self, x: Tensor) -> Tensor:
        """`log_joint` of rows `[n, D]` of one mixture, cut short where a component is hopeless.

        A row's distance is a sum over whitened features and only grows. The first block of features
        is computed for all components; then the likeliest is computed to its end, and the others
        for as long as they can still come near it.
        """
        components, parts = self.mean.shape[1], blocks(x.shape[1])
        joint = self._constant().to(x.dtype).repeat(len(x), 1)
        whitening = [self._whitening(k) for k in range(components)]

        def go_on(rows: Tensor, k: int, low: int, high: int) -> None:
            (factor, offset), part = whitening[k], x[:, :high]
            part = part if len(rows) == len(x) else part.index_select(0, rows)
            whitened = torch.addmm(offset[0, :, low:high], part, factor[0, :high, low:high])
            joint[:, k].index_add_(0, rows, _norm(whitened), alpha=-0.5)

        everyone = torch.arange(len(x), device=x.device)
        for k in range(components):
            go_on(everyone, k, *parts[0])
        leader = joint.argmax(1)
        for k in range(components):
            for part in parts[1:]:
                go_on(everyone[leader == k], k, *part)
        bar = joint.gather(1, leader[:, None]).squeeze(1) - HOPELESS
        for k in range(components):
            rows = everyone[leader != k]
            for part in parts[1:]:
                rows = rows[joint[rows, k] > bar[rows]]
                go_on(rows, k, *part)
        return joint


def blocks(dim: int) -> list[tuple[int, int]]:
    """Ranges of features in which a triangular product of many features is done.

    Three of eight parts of such a product are left out.
    """
    edges = [dim * i // 4 for i in range(5)] if dim >= WIDE else [0, dim]
    return list(itertools.pairwise(edges))


def _norm(whitened: Tensor) -> Tensor:
    return torch.linalg.vector_norm(whitened, dim=-1).square()
