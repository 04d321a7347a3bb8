"""The activations of a data set, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from openset.activations import Activations
from openset.data.loaders import numbered
from openset.extractors.store import Store
from openset.networks.device import device_of


def extract(
    extractor: nn.Module,
    source: object,
    *,
    store: str | os.PathLike[str] | None = None,
    batch_size: int = 256,
) -> list[Activations] | Store:
    """Runs an extractor over images once, for every detector that reads its activations.

    Args:
        extractor: A `Tap`, `Perturb` or any module from images to `Activations`.
        source: An image set, a data set of (image, label), a loader, or a list of batches.
        store: A folder to write to; None keeps the activations in memory.
        batch_size: Images per pass.

    Returns:
        Batches of activations with labels, on the CPU, to be read as often as needed.

    Raises:
        ValueError: If images or the network's outputs hold NaN or infinite values.
    """
    activations = stream(extractor, source, batch_size)
    return list(activations) if store is None else Store(store).write(activations)


def stream(extractor: nn.Module, source: object, batch_size: int = 256) -> Iterator[Activations]:
    """The activations of one batch of images after another, on the CPU."""
    yield from (seen for _, seen in looks(extractor, source, batch_size))


def looks(
    extractor: nn.Module,
    source: object,
    batch_size: int = 256,
    wanted: Callable[[int], bool] = lambda number: True,
) -> Iterator[tuple[int, Activations]]:
    """The number of each batch that is wanted, counted from 0, with its activations on the CPU."""
    device = device_of(extractor)
    for number, image, label in numbered(source, batch_size, wanted):
        with torch.no_grad(), named(number):
            seen = extractor(image.to(device)).to("cpu")
            finite(seen.logits, "the network's logits")
        seen.labels = label
        yield number, seen


@contextmanager
def named(batch: int) -> Iterator[None]:
    """Names the batch, counted from 0, in whatever a look at it finds wrong."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"batch {batch}: {error}") from error


def finite(x: Tensor, what: str) -> Tensor:
    """Raises for NaN and infinite values, else returns the tensor; an export skips the check."""
    if torch.compiler.is_compiling():
        return x
    # The sum of a map's logits takes a tenth of the time; it is finite only where all of them are.
    total = x.detach().sum(dtype=torch.promote_types(x.dtype, torch.float32))
    if not total.isfinite() and not x.isfinite().all():
        bad = int((~x.isfinite()).view(len(x), -1).any(1).sum())
        raise ValueError(
            f"{what} hold NaN or infinite values in {bad} of {len(x)} samples; "
            "expected finite numbers; check the images and the network's weights"
        )
    return x
