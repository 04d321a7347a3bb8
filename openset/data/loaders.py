"""Whatever holds labelled images, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openset.data.images import Batches, ImageSet


def batches(source: Any, batch_size: int = 256) -> Iterable[tuple[Tensor, Tensor]]:
    """Re-iterable (image `[N, C, H, W]`, label `[N]`) of whatever holds labelled images.

    Args:
        source: An `ImageSet`, any `torch.utils.data.Dataset` of (image, label), a `DataLoader`, or
            a list of batches.
        batch_size: Images per batch, where the source does not say.

    Raises:
        ValueError: For a source that can be read only once, or whose pixels are not finite.
    """
    if isinstance(source, ImageSet):
        return source.batches(batch_size)
    if isinstance(source, Batches | _Checked):
        return source
    if isinstance(source, Dataset):
        source = DataLoader(source, batch_size)
    elif not isinstance(source, Iterable) or iter(source) is source:
        raise ValueError(
            f"got {type(source).__name__}; give an ImageSet, a Dataset of (image, label), a "
            "DataLoader or a list of batches, which can be read more than once"
        )
    return _Checked(source)


class _Checked:
    """Batches from outside, each looked at before it goes on."""

    def __init__(self, source: Iterable[Any]):
        self.source = source

    def __len__(self) -> int:
        if isinstance(self.source, Sized):
            return len(self.source)
        raise TypeError(f"{type(self.source).__name__} has no length")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(self.source):
            yield checked(batch, f"batch {number}")


def checked(batch: Any, name: str) -> tuple[Tensor, Tensor]:
    """The image and label of a batch, as floats and int64.

    Raises:
        ValueError: If it is no such pair, or if pixels are NaN or infinite.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"{name} is {type(batch).__name__}; expected a pair (image, label)")
    image, label = torch.as_tensor(batch[0]), torch.as_tensor(batch[1]).long()
    if image.dim() != 4:
        raise ValueError(f"{name} has images of shape {tuple(image.shape)}; give [N, C, H, W]")
    if len(image) != len(label):
        raise ValueError(f"{name} has {len(image)} images but {len(label)} labels")
    if not image.is_floating_point():
        return image.float() / 255, label
    finite = image.isfinite().flatten(1).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"{name}: NaN or infinite pixels in image {bad[0]} ({len(bad)} in all)")
    return image, label


def mean_std(images: Iterable[tuple[Tensor, Tensor]] | ImageSet) -> tuple[list, list]:
    """Mean and standard deviation of each channel, of pixels in 0…1, in one pass."""
    count, total, square = 0, 0.0, 0.0
    for image, _ in batches(images):
        x = image.double().transpose(0, 1).flatten(1)
        count += x.shape[1]
        total, square = total + x.sum(1), square + x.square().sum(1)
    if not isinstance(total, Tensor) or not isinstance(square, Tensor):
        raise ValueError("no images: the data set or the loader gave no batch")
    mean = total / count
    return mean.tolist(), (square / count - mean.square()).clamp_min(0).sqrt().tolist()


AT_ONCE = 2**18
"""Pixels of images that pass the network at once."""


def per_pixel(source: Any) -> bool:
    """Whether a source's labels are maps; reads one batch of what is no `ImageSet`."""
    if isinstance(source, ImageSet):
        return source.dense
    if isinstance(source, torch.utils.data.Dataset):
        return torch.as_tensor(source[0][1]).dim() > 0
    return next((label.dim() > 1 for _, label in batches(source)), False)


def images_at_once(source: Any, batch_size: int = 256) -> int:
    """Images per pass: at most `AT_ONCE` pixels where they are labelled one by one."""
    if not isinstance(source, ImageSet):
        return min(batch_size, 4)
    height, width = source.adapter.size
    return max(1, min(batch_size, AT_ONCE // (height * width)))
