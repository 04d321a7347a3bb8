"""The rows that detectors learn from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.arrays import Absent
from openset.detectors.base import Detector
from openset.errors import LackingError
from openset.extractors.extract import finite
from openset.moments import Moments
from openset.sampling import reservoir
from openset.spec import as_names


class Rows:
    """The known rows of activations as re-iterable (features `[M, D]`, labels `[M]`).

    Args:
        batches: Activations with labels; unknown and void rows are left out.
        layers: The layers to put side by side, as `Activations.stacked` takes them.
        correct: Keep only rows that the network classifies correctly.
    """

    def __init__(
        self,
        batches: Iterable[Activations],
        layers: Sequence[str] | None,
        *,
        correct: bool = False,
    ):
        check_again(batches)
        self.batches, self.layers, self.correct = batches, layers, correct

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        found = False
        for batch in self.batches:
            rows = known(batch)
            found = found or len(rows) > 0
            if self.correct:
                rows = rows[rows.logits.argmax(1) == rows.labels]
            assert rows.labels is not None
            yield finite(rows.stacked(self.layers), "the features"), rows.labels
        if not found:
            raise ValueError(
                "no image to fit on is of a known class; give their classes 0…K−1 as labels"
            )

    @property
    def classes(self) -> int:
        """The number of known classes, which is the number of logits."""
        return peek(self.batches).logits.shape[1]


def known(batch: Activations) -> Activations:
    """The rows of known classes; their labels must lie in 0…K−1."""
    if batch.labels is None:
        raise ValueError("fit got activations without labels; extract them from labelled data")
    rows = batch.rows().single()
    assert rows.labels is not None
    check_labels(rows.labels, rows.logits.shape[1])
    keep = rows.labels >= 0
    return rows if bool(keep.all()) else rows[keep]


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises for a label of a class that the network does not have."""
    if len(labels) and int(labels.max()) >= classes:
        raise ValueError(
            f"label {int(labels.max())} is outside 0…{classes - 1}: "
            f"the network has {classes} classes; map the labels to them"
        )


def check_again(batches: Iterable[Activations]) -> None:
    """Raises for what can be read only once."""
    if iter(batches) is batches:
        raise ValueError(
            "fit got a generator, which can be read only once; pass a list, a Store or a loader"
        )


def peek(batches: Iterable[Activations]) -> Activations:
    """The first batch, of what can be read again."""
    check_again(batches)
    for batch in batches:
        return batch
    raise ValueError("no activations: the data set or the loader gave no batch")


def head_of(rows: Activations, detector: Detector) -> tuple[Tensor, Tensor]:
    """Weight `[K, D]` and bias `[K]` of the layer from the penultimate features to the logits."""
    if rows.head is None:
        raise LackingError(
            f"{detector.name} applies the network's last linear layer again, and none was found "
            "that gives the logits; name it: Tap(network, head=…)"
        )
    return rows.head


def head_energy(x: Tensor, rows: Activations, detector: Detector) -> Tensor:
    """−log Σ exp(logit) `[M]` where the features before the network's last layer are `[M, D]`."""
    weight, bias = head_of(rows, detector)
    return -(x @ weight.to(x.dtype).T + bias.to(x.dtype)).logsumexp(1)


def mean_of(rows: Rows) -> Tensor:
    """The mean `[D]` of all rows, in one pass."""
    return Moments.of(((x, labels.clamp_max(0)) for x, labels in rows), 1, "diag").mean[0].float()


def sampled(rows: Iterable[tuple[Tensor, Tensor]], most: int, seed: int) -> Tensor:
    """A seeded sample of at most `most` of all rows, `[m, D]`."""
    (kept,), _ = reservoir(((x, labels.clamp_max(0)) for x, labels in rows), 1, most, seed)
    return kept


def quantiles(values: Tensor, shares: Sequence[float]) -> Tensor:
    """The values `[len(shares)]` below which these shares of all lie, of any number of values."""
    found = np.quantile(values.cpu().numpy(), shares)  # torch.quantile takes at most 16 million.
    return torch.tensor(found, dtype=torch.float32, device=values.device)


def choose_layers(batches: Iterable[Activations], layers: Sequence[str] | None) -> tuple[str, ...]:
    """The layers a detector reads: those named, or all stages, the penultimate and the logits.

    Where the tap recorded layers that are no stages, all of them are taken instead.
    """
    first = peek(batches)
    features = first.features
    if layers is not None:
        return as_names(layers)
    stages = [name for name in features if name.startswith("stage")]
    found = stages or [name for name in features if name != "penultimate"]
    last = ["penultimate"] if "penultimate" in features else []
    logits = [] if isinstance(first.logits, Absent) else ["logits"]
    return (*found, *last, *logits)


def distinct(batch: Activations, layers: Sequence[str]) -> tuple[str, ...]:
    """The layers without those that repeat an earlier one."""
    kept: list[str] = []
    for layer in layers:
        x = batch.values(layer)
        if not any(_equal(x, batch.values(other)) for other in kept):
            kept.append(layer)
    return tuple(kept)


def _equal(x: Tensor, y: Tensor) -> bool:
    # Two ways of pooling round differently, so the last stage equals the penultimate nearly.
    return x.shape == y.shape and torch.allclose(x, y, rtol=1e-4, atol=1e-6)
