"""Activations of one batch of images, from one pass or look: the input of every detector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from openset.errors import LackingError, unknown_name
from openset.text import few

UNKNOWN = -1
"""Label of a sample that belongs to none of the known classes."""


VOID = -100
"""Label of a pixel that is left out of training and evaluation."""


@dataclass(repr=False)
class Activations:
    """Logits, features and labels of one batch, for whole images or for pixels.

    Args:
        logits: `[N, K, *grid]`; the grid is `()` for images and `(H, W)` for pixels.
        features: Layer name to `[N, D, *grid]`, pooled to `[N, D]` for whole images.
        labels: `[N, *grid]`, or None; `UNKNOWN` and `VOID` mark what is no known class.
        extra: Further values per row by name, `[N, *grid]`, such as `"reconstruction"`.
        head: Weight `[K, D]` and bias `[K]` of the linear map from `features["penultimate"]` to
            the logits, for the scores that apply it again (ViM, ReAct); None if there is none.

    Example:
        >>> activations = Activations(torch.zeros(2, 3), {"stage1": torch.ones(2, 5)})
        >>> activations.stacked(["stage1", "logits"]).shape
        torch.Size([2, 8])
    """

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    head: tuple[Tensor, Tensor] | None = None

    def __repr__(self) -> str:
        def shapes(tensors: dict[str, Tensor]) -> str:
            return few(f"{name} {list(x.shape)}" for name, x in tensors.items())

        labels = "none" if self.labels is None else str(list(self.labels.shape))
        lines = [
            f"Activations of {len(self)} images: logits {list(self.logits.shape)}",
            f"  features: {shapes(self.features)}",
            f"  labels: {labels}",
        ]
        lines += [f"  extra: {shapes(self.extra)}"] if self.extra else []
        return "\n".join(lines)

    @property
    def grid(self) -> torch.Size:
        """The shape beyond batch and channels: `()` for images, `(H, W)` for pixels."""
        return self.logits.shape[2:]

    def __len__(self) -> int:
        return len(self.logits)

    def map(self, change: Callable[[Tensor], Tensor]) -> Activations:
        """The same activations with `change` applied to every tensor but the head."""
        return replace(
            self,
            logits=change(self.logits),
            features={name: change(x) for name, x in self.features.items()},
            labels=None if self.labels is None else change(self.labels),
            extra={name: change(x) for name, x in self.extra.items()},
        )

    def __getitem__(self, index) -> Activations:
        """The chosen samples; `index` is a slice, a mask or indices over the first dimension."""
        return self.map(lambda x: x[index])

    def to(self, *args, **kwargs) -> Activations:
        """Moves to a device or casts floating-point tensors, as `Tensor.to` does."""
        target = torch.empty(0).to(*args, **kwargs)

        def move(x: Tensor) -> Tensor:
            return x.to(*args, **kwargs) if x.is_floating_point() else x.to(target.device)

        moved = self.map(move)
        if self.head is not None:
            moved.head = (move(self.head[0]), move(self.head[1]))
        return moved

    def single(self) -> Activations:
        """Casts half-precision tensors to single precision, in which scores no longer tie."""

        def widened(x: Tensor) -> Tensor:
            return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

        found = self.map(widened)
        if self.head is not None:
            found.head = (widened(self.head[0]), widened(self.head[1]))
        return found

    def beside(self, learned: object) -> Activations:
        """Moves to the device of a module's buffers; without buffers nothing moves."""
        tensors = learned.buffers() if isinstance(learned, nn.Module) else ()
        for tensor in tensors:
            return self if tensor.device == self.logits.device else self.to(tensor.device)
        return self

    def rows(self) -> Activations:
        """One row per image or per pixel: `[M, K]`, `[M, D]`, `[M]`, with M = N × grid."""
        if not self.grid:
            return self
        per_pixel = len(self.grid)

        def flat(x: Tensor) -> Tensor:
            if x.dim() == 1 + per_pixel:
                return x.flatten()
            return x.flatten(2).transpose(1, 2).flatten(0, 1)

        return self.map(flat)

    def values(self, name: str) -> Tensor:
        """The features of one layer, `[N, D, *grid]`; `"logits"` names the logits."""
        if name == "logits":
            return self.logits
        if name == "penultimate" and name not in self.features:
            raise LackingError(
                "the features before the network's last linear map are not recorded, and no such "
                "map was found if it was not named; name it: Tap(network, head=…)"
            )
        if name not in self.features:
            raise ValueError(unknown_name("layer", name, [*self.features, "logits"]))
        return self.features[name]

    def stacked(self, layers: Sequence[str] | None = None) -> Tensor:
        """The named layers side by side, `[N, sum of D, *grid]`; None takes every feature."""
        names = list(self.features) if layers is None else layers
        if not names:
            raise ValueError(
                "these activations hold no features; name layers: Tap(network, layers=[…])"
            )
        dtype = torch.promote_types(self.logits.dtype, torch.float32)
        return torch.cat([self.values(name).to(dtype) for name in names], dim=1)


def concatenate(batches: Iterable[Activations]) -> Activations:
    """Joins batches into one, in their order. Every batch must hold the same names."""
    parts = list(batches)
    if not parts:
        raise ValueError("no activations: the data set or the loader gave no batch")
    first = parts[0]
    if len(parts) == 1:
        return first

    def join(pick: Callable[[Activations], Tensor]) -> Tensor:
        return torch.cat([pick(part) for part in parts])

    labelled = all(part.labels is not None for part in parts)
    return Activations(
        logits=join(lambda part: part.logits),
        features={name: join(lambda part, n=name: part.features[n]) for name in first.features},
        labels=torch.cat([p.labels for p in parts if p.labels is not None]) if labelled else None,
        extra={name: join(lambda part, n=name: part.extra[n]) for name in first.extra},
        head=first.head,
    )


class Each:
    """Batches with a change made to each as it is read; may be read several times.

    Args:
        batches: An iterable that may itself be read several times.
        change: From a batch to a batch.

    Example:
        >>> batches = Each([Activations(torch.zeros(2, 3))], Activations.single)
        >>> [len(batch) for batch in batches], [len(batch) for batch in batches]
        ([2], [2])
    """

    def __init__(
        self, batches: Iterable[Activations], change: Callable[[Activations], Activations]
    ):
        self.batches, self.change = batches, change

    def __iter__(self) -> Iterator[Activations]:
        yield from map(self.change, self.batches)


class EveryNth:
    """Every n-th sample of batches of activations or of (image, label); may be read several times.

    Samples are counted through all batches, so the choice does not depend on the batches' sizes.

    Args:
        batches: An iterable that may itself be read several times.
        step: Distance, in samples, from one chosen sample to the next.
        start: The first sample, counted from 0.

    Example:
        >>> batches = [Activations(torch.zeros(n, 3), labels=torch.arange(n)) for n in (3, 2)]
        >>> [batch.labels.tolist() for batch in EveryNth(batches, 2)]
        [[0, 2], [1]]
    """

    def __init__(self, batches: Iterable[Any], step: int, start: int = 0):
        self.batches, self.step, self.start = batches, step, start

    def __iter__(self) -> Iterator[Any]:
        before = 0
        for batch in self.batches:
            whole = isinstance(batch, Activations)
            size = len(batch) if whole else len(batch[0])
            chosen = slice((self.start - before) % self.step, None, self.step)
            before += size
            if chosen.start < size:
                yield batch[chosen] if whole else tuple(x[chosen] for x in batch)
