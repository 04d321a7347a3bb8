"""The contract of every density: features in, surprise out; one model, or one per class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

import torch
from torch import Tensor

from openset.fitted import Fitted


class Density(Fitted):
    """From features to how surprising they are under one model, or under each class's own.

    A subclass writes `fit_classes`, which fits one model per class, and `surprise`, the score under
    the model of one class. A plain `fit` is the case of a single class.
    """

    kind: ClassVar[str] = "density"

    def fit(self, batches: Iterable[Tensor]) -> Self:
        """Fits one model to rows `[M, D]`; `batches` may be read several times."""
        return self.fit_classes(_Unlabelled(batches), classes=1)

    def fit_classes(self, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Self:
        """Fits a model per class to (rows `[M, D]`, labels `[M]`), read once or several times.

        Raises:
            ValueError: Naming each class with too few rows for the model.
        """
        raise NotImplementedError

    def surprise(self, x: Tensor, c: int) -> Tensor:
        """Surprise `[M]` of rows `[M, D]` under class `c`; higher = more surprising."""
        raise NotImplementedError

    def table(self, x: Tensor) -> Tensor:
        """Surprise of rows `[M, D]` under every class's model, `[M, C]`."""
        return torch.stack([self.surprise(x, c) for c in range(self.classes)], dim=1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Surprise `[M]` of rows `[M, D]`, each under the model of its own label `[M]`.

        Without labels, under the only model.
        """
        if labels is None:
            return self.surprise(x, 0)
        if torch.compiler.is_exporting():
            # A graph cannot hold a loop over the labels that happen to come.
            return self.table(x).gather(1, labels[:, None]).squeeze(1)
        score = x.new_empty(len(x))
        for c in labels.unique().tolist():
            chosen = labels == c
            score[chosen] = self.surprise(x[chosen], c).to(score)
        return score

    @property
    def classes(self) -> int:
        """The number of fitted models."""
        raise NotImplementedError


def need_rows(counts: Tensor, least: int, density: Density, advice: str) -> None:
    """Raises ValueError naming each class that has fewer than `least` of the rows `[C]`."""
    few = (counts < least).nonzero().flatten().tolist()
    if few:
        shown = ", ".join(f"class {c} has {int(counts[c])}" for c in few[:10])
        more = f" and {len(few) - 10} more classes" if len(few) > 10 else ""
        raise ValueError(
            f"{density.name} needs at least {least} rows of every class; {shown}{more}: {advice}"
        )


def width(batches: Iterable[tuple[Tensor, Tensor]]) -> int:
    """The number of features D, for a fit that reads `batches` several times."""
    if iter(batches) is batches:
        raise ValueError(
            "fit got a generator, which can be read only once; pass a list, a Store or a loader"
        )
    for x, _ in batches:
        return x.shape[1]
    raise ValueError("no rows: the data set or the loader gave no batch")


class _Unlabelled:
    """Rows with the label 0, re-iterable if the batches are."""

    def __init__(self, batches: Iterable[Tensor]):
        if iter(batches) is batches:
            raise ValueError("fit got a generator, which can be read only once; pass a list")
        self.batches = batches

    def __iter__(self):
        for x in self.batches:
            yield x, torch.zeros(len(x), dtype=torch.long, device=x.device)
