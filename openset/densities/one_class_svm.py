"""A one-class support vector machine per class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from openset.densities.base import Density, in_chunks, need_rows, padded
from openset.sampling import reservoir
from openset.spec import Amount, Count


class OneClassSVM(Density):
    """Says how little features resemble the training rows that bound their class.

    Schölkopf et al., "Estimating the support of a high-dimensional distribution" (2001),
    https://doi.org/10.1162/089976601750264965. The score is −Σ αᵢ exp(−γ |x − sᵢ|²) over the
    support vectors sᵢ. scikit-learn fits it, to a seeded sample of at most `max_rows` rows a class;
    the score is that of its `score_samples`, negated. Far from all training rows it levels off at
    0, and it grows with the rows that a class was fitted to.

    Args:
        nu: The share of rows that may lie outside, 0…1; at least this share supports the boundary.
        gamma: Width of the kernel; "scale" is 1 / (features × variance of all the class's values).
        max_rows: The most rows a class is fitted to, as the fit grows with their square.
        seed: Seed of the sample.

    Example:
        >>> density = OneClassSVM().fit([torch.randn(50, 2)])
        >>> near, far = density(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
        >>> bool(far > near)
        True
    """

    centre: Tensor
    support: Tensor
    weight: Tensor
    width: Tensor

    def __init__(
        self, nu: Amount = 0.5, gamma: Amount | str = "scale", max_rows: Count = 5000, seed: int = 0
    ):
        super().__init__()
        self.nu, self.gamma, self.max_rows, self.seed = nu, gamma, max_rows, seed

    def fit_classes(self, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Self:
        from sklearn.svm import OneClassSVM as Solver  # Slow to import.

        rows, counts = reservoir(batches, classes, self.max_rows, self.seed)
        need_rows(counts, 2, self, "give more images of it")
        centre = torch.stack([x.double().mean(0) for x in rows])
        centred = [x.double() - mean for x, mean in zip(rows, centre, strict=True)]
        width = [self._width(x.double()) for x in rows]
        fits = [
            Solver(nu=self.nu).set_params(gamma=gamma).fit(x.cpu().numpy())
            for x, gamma in zip(centred, width, strict=True)
        ]
        learned = {
            "centre": centre,
            "support": padded([torch.from_numpy(fit.support_vectors_) for fit in fits]),
            "weight": padded([torch.from_numpy(fit.dual_coef_[0]) for fit in fits]),
            "width": torch.tensor(width, dtype=torch.float64),
        }
        target = torch.promote_types(rows[0].dtype, torch.float32)
        self.keep(**{name: x.to(rows[0].device, target) for name, x in learned.items()})
        return self

    def _width(self, x: Tensor) -> float:
        if not isinstance(self.gamma, str):
            return self.gamma
        # The variance over all entries, the spread of the features' means included.
        variance = float(x.var(correction=0))
        return 1 / (x.shape[1] * variance) if variance > 0 else 1.0

    @property
    def classes(self) -> int:
        return len(self.support)

    def surprise(self, x: Tensor, c: int) -> Tensor:
        support, norm = self.support[c], self.support[c].square().sum(1)

        def score(x: Tensor) -> Tensor:
            x = x.to(self.support) - self.centre[c]
            squares = torch.addmm(norm, x, support.T, alpha=-2) + x.square().sum(1, keepdim=True)
            return -((-self.width[c] * squares.clamp_min(0)).exp() @ self.weight[c])

        return in_chunks(score, x)
