"""What is drawn at random: numbers, a sample of each class's rows, masks of dropout."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def reservoir(
    batches: Iterable[tuple[Tensor, Tensor]], classes: int, most: int, seed: int = 0
) -> tuple[list[Tensor], Tensor]:
    """At most `most` rows of each class, drawn without replacement in one pass.

    Every row draws a random key and each class keeps its smallest keys (Vitter's reservoir by keys,
    1985, https://doi.org/10.1145/3147.3165). The draw follows the order of the rows and not how
    they are split into batches. Memory holds at most twice the sample and one batch.

    Args:
        batches: (rows `[M, D]`, labels `[M]`); rows with a negative label are left out.
        classes: The number of classes C.
        most: The most rows kept of a class; a class with fewer keeps all, in their order.
        seed: Seed of the sample.

    Returns:
        The rows `[m, D]` of each class, and how many rows each class had, int64 `[C]`.

    Example:
        >>> batch = torch.arange(4.0)[:, None], torch.tensor([0, 0, 1, 0])
        >>> rows, counts = reservoir([batch], classes=2, most=2)
        >>> [len(x) for x in rows], counts.tolist()
        ([2, 1], [3, 1])
    """
    generator = np.random.default_rng(seed)
    counts = torch.zeros(classes, dtype=torch.long)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    held = 0
    for x, labels in batches:
        if not bool(x.isfinite().all()):
            raise ValueError("features hold NaN or infinity; look for overflow in the network")
        keys = torch.from_numpy(generator.random(len(x)))
        labels = labels.cpu()
        if len(labels) and int(labels.max()) >= classes:
            raise ValueError(f"label {int(labels.max())} is outside 0…{classes - 1}")
        known = labels >= 0
        counts += torch.bincount(labels[known], minlength=classes)
        kept.append((x[known.to(x.device)], labels[known], keys[known]))
        held += int(known.sum())
        if held > 2 * most * classes:
            kept = [_smallest(kept, classes, most)]
            held = len(kept[0][0])
    if not kept:
        raise ValueError("no rows: the data set or the loader gave no batch")
    x, labels, _ = _smallest(kept, classes, most)
    sizes = torch.bincount(labels, minlength=classes).tolist()
    return list(x[labels.argsort(stable=True).to(x.device)].split(sizes)), counts


def _smallest(
    parts: list[tuple[Tensor, Tensor, Tensor]], classes: int, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows with the `most` smallest keys of each class, in their order."""
    x, labels, keys = (torch.cat(column) for column in zip(*parts, strict=True))
    by_key = keys.argsort()
    by_class = by_key[labels[by_key].argsort(stable=True)]
    start = torch.bincount(labels, minlength=classes).cumsum(0).roll(1)
    start[0] = 0
    rank = torch.arange(len(labels)) - start[labels[by_class]]
    chosen = by_class[rank < most].sort().values
    return x[chosen.to(x.device)], labels[chosen], keys[chosen]


def some_of_each(groups: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Positions of at most `most` members of each group `[M]`, drawn at random; below 0 is none."""
    order = torch.randperm(len(groups), generator=generator)
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order]
    first = torch.searchsorted(ordered, ordered)
    rank = torch.arange(len(ordered)) - first
    return order[(rank < most) & (ordered >= 0)]


def dropout_masks(samples: int, features: int, rate: float, seed: int = 0) -> Tensor:
    """Factors `[samples, features]`: 0 for a share of the features, 1 / (1 − share) for others."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(samples, features, generator=generator) >= rate
    return kept.float() / (1 - rate)


def uniform(rows: int, n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers in 0…1, `[rows, n]`, on a tensor's device wherever the generator is."""
    numbers = torch.rand(rows, n, generator=generator, device=generator.device)
    return numbers.to(like.device, non_blocking=True)
