"""The contract of every density: features in, surprise out; one model, or one per class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from openset.fitted import Fitted


class Density(Fitted):
    """Scores how surprising features are, under one model or under each class's own.

    A subclass writes `fit_classes`, which fits one model per class, and `surprise`, the score under
    the model of one class. A plain `fit` is the case of a single class.
    """

    kind: ClassVar[str] = "density"

    def fit(self, batches: Iterable[Tensor]) -> Self:
        """Fits one model to rows `[M, D]`; `batches` may be read several times.

        One array or tensor `[M, D]` will do.
        """
        if hasattr(batches, "__array__"):
            batches = [_rows(batches)]
        return self.fit_classes(_Unlabelled(batches), classes=1)

    def score_samples(self, x: Any) -> Any:
        """Surprise `[M]` of an array or tensor `[M, D]`, higher = more surprising.

        The other way round in scikit-learn, whose method of this name gives log-likelihoods.
        """
        with torch.no_grad():
            scores = self(_rows(x))
        return scores if isinstance(x, Tensor) else scores.cpu().numpy()

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
        order = labels.argsort(stable=True)
        found, sizes = labels.unique(return_counts=True)
        parts = x[order].split(sizes.tolist())
        scores = [self.surprise(part, c) for c, part in zip(found.tolist(), parts, strict=True)]
        return torch.cat(scores)[order.argsort()] if scores else self.surprise(x, 0)

    @property
    def classes(self) -> int:
        """The number of fitted models."""
        raise NotImplementedError


def _rows(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.from_numpy(np.array(x))


def need_rows(counts: Tensor, least: int, who: Fitted, advice: str) -> None:
    """Raises ValueError naming each class that has fewer than `least` of the rows `[C]`."""
    few = (counts < least).nonzero().flatten().tolist()
    if few:
        shown = ", ".join(f"class {c} has {int(counts[c])}" for c in few[:10])
        more = f" and {len(few) - 10} more classes" if len(few) > 10 else ""
        raise ValueError(
            f"{who.name} needs at least {least} rows of every class; {shown}{more}: {advice}"
        )


def padded(rows: Sequence[Tensor], fill: float = 0.0) -> Tensor:
    """Tensors that differ in length, `[C, longest, …]`, filled up."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)


def in_chunks(score: Callable[[Tensor], Tensor], x: Tensor, most: int = 4096) -> Tensor:
    """Scores at most `most` rows at a time, so that memory does not grow with their number."""
    if torch.compiler.is_exporting() or len(x) <= most:
        return score(x)
    return torch.cat([score(part) for part in x.split(most)])


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
