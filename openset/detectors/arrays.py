"""Plain arrays of features and logits in place of activations, for stored embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openset.activations import Activations

Array = Any
"""A numpy array, a tensor, or what numpy can read, such as a data frame."""


class Absent(Tensor):
    """Stands for logits that nobody gave: it has a shape and a place, and refuses to be read."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ not in ("__get__", "__getitem__", "__len__", "dim", "to", "size"):
            raise ValueError(
                "this detector reads logits, and only features were given; give both: "
                "fit(X, y, logits=…) and score_samples(X, logits=…)"
            )
        return super().__torch_function__(func, types, args, kwargs)


def is_array(x: object) -> bool:
    """Whether this is an array, or several by the names of their layers."""
    return hasattr(x, "__array__") or isinstance(x, Mapping)


def taking_arrays(method: Callable[..., Any]) -> Callable[..., Any]:
    """A detector's `fit` or `adjust` that takes `(X, y, logits=…)` as well as activations."""

    @wraps(method)
    def either(self: Any, batches: Any = None, labels: Array = None, *, logits: Array = None):
        if labels is None and logits is None and not is_array(batches):
            return method(self, batches)
        check_one_look(self)
        return method(self, [activations_of(batches, labels, logits, learning=True)])

    return either


def check_one_look(detector: Any) -> None:
    """Raises for a detector that must send the image through the network again."""
    if detector.looks_again:
        raise ValueError(
            f"{detector!r} looks at each image a second time through the network, so it cannot "
            "work on stored features; take epsilon=0 where it has one, or another detector"
        )


def activations_of(
    x: Array | Mapping[str, Array] | None,
    labels: Array = None,
    logits: Array = None,
    *,
    learning: bool = False,
) -> Activations:
    """Activations of plain arrays, one row per image.

    Args:
        x: Features `[N, D]`, which count as those before the network's last layer, or several by
            the names of their layers; None for logits alone.
        labels: Classes `[N]`, 0…K−1; -1 for what is of no known class.
        logits: `[N, K]`; None if there are none.
        learning: Without labels and logits, all rows count as of one class.

    Raises:
        ValueError: For arrays of other shapes, and labels that are no whole numbers.
    """
    named = x if isinstance(x, Mapping) else {} if x is None else {"penultimate": x}
    features = {str(name): rows_of(values, f"features {name}") for name, values in named.items()}
    given = None if logits is None else rows_of(logits, "logits")
    parts = [*features.values(), *([] if given is None else [given])]
    if not parts:
        raise ValueError("neither features nor logits were given; give X or logits=…")
    count = len(parts[0])
    if learning and labels is None and given is None:
        labels = torch.zeros(count, dtype=torch.long)
    known = None if labels is None else labels_of(labels)
    lengths = {len(part) for part in (*parts, *([] if known is None else [known]))}
    if lengths != {count}:
        raise ValueError(f"features, labels and logits have {sorted(lengths)} rows; give as many")
    if given is None:
        classes = 1 if known is None or not count else max(1, int(known.max()) + 1)
        given = parts[0].new_zeros(count, classes).as_subclass(Absent)
    return Activations(given, features, known)


def rows_of(values: Array, name: str) -> Tensor:
    """An array `[N, D]` of numbers as a floating-point tensor, in its own precision."""
    rows = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    if rows.dim() != 2 or rows.is_complex():
        raise ValueError(f"{name} have shape {tuple(rows.shape)}; give numbers [N, D]")
    return rows.detach() if rows.is_floating_point() else rows.float()


def labels_of(labels: Array) -> Tensor:
    """An array `[N]` of class numbers as a tensor of whole numbers."""
    if not isinstance(labels, Tensor):
        labels = np.array(labels)
        if labels.dtype.kind not in "iub":
            raise ValueError(
                f"labels are {labels.dtype}; give whole numbers 0…K−1, as by "
                "np.unique(labels, return_inverse=True)"
            )
        labels = torch.from_numpy(labels)
    if labels.dim() != 1 or labels.is_floating_point():
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; give whole numbers [N]"
        )
    return labels.detach().long()


def like(scores: Tensor, *given: Any) -> Any:
    """Scores as a tensor where a tensor was given, or else as a numpy array."""
    values = [x for one in given for x in (one.values() if isinstance(one, Mapping) else [one])]
    return scores if any(isinstance(x, Tensor) for x in values) else scores.cpu().numpy()
