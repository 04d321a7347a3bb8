"""The forms in which batches come: pairs, triples, dictionaries, images alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from openset.activations import UNKNOWN, VOID

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "class", "y")

SLACK = 1e-3
"""Largest excess of a pixel over 0…1 that passes, as rounding or resizing may cause it."""


def image_and_label(batch: Any, name: str) -> tuple[Any, Any]:
    """Splits a batch or a sample into image and label; the label is None where there is none.

    Args:
        batch: A pair (image, label), a tuple that starts like it, a dictionary, or an image.
        name: Its name in errors.

    Raises:
        ValueError: If it is nothing of these.
    """
    if isinstance(batch, Mapping):
        image = next((batch[key] for key in IMAGE_KEYS if key in batch), None)
        if image is None:
            keys = ", ".join(map(str, batch))
            raise ValueError(f"{name} has the keys {keys}; name the images image, labels label")
        return image, next((batch[key] for key in LABEL_KEYS if key in batch), None)
    if isinstance(batch, Tensor | np.ndarray):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) == 1:
        return batch[0], None
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        return batch[0], batch[1]
    raise ValueError(
        f"{name} is {_kind(batch)}; expected a pair (image, label), a dictionary with image and "
        "label, or images alone"
    )


def collate(samples: Sequence[Any]) -> tuple[Any, Any]:
    """Samples of a data set as one batch: their images and labels, whatever else they hold.

    Raises:
        ValueError: If images differ in size or are no tensors, or if only some have a label.
    """
    pairs = [image_and_label(sample, "a sample") for sample in samples]
    images, labels = [image for image, _ in pairs], [label for _, label in pairs]
    without = sum(label is None for label in labels)
    if 0 < without < len(labels):
        raise ValueError(f"{without} of {len(labels)} samples have no label; give all one or none")
    try:
        return default_collate(images), None if without else default_collate(labels)
    except (TypeError, RuntimeError) as error:
        kinds = sorted({f"{type(image).__name__} {_shape(image)}".strip() for image in images})
        raise ValueError(
            f"samples cannot be put together: their images are {', '.join(kinds[:3])}; give "
            "tensors [C, H, W] of one size, as torchvision's ToTensor makes them, and labels as "
            "numbers"
        ) from error


def as_batch(batch: Any, name: str) -> tuple[Tensor, Tensor]:
    """Images `[N, C, H, W]` in 0…1 and labels `[N]` or `[N, H, W]`, `UNKNOWN` where there are none.

    Raises:
        ValueError: If it is no batch of images, or its labels are unclear or of another number.
    """
    image, label = image_and_label(batch, name)
    image = as_images(image, name)
    labels = torch.full((len(image),), UNKNOWN) if label is None else as_labels(label, name)
    if len(image) != len(labels):
        raise ValueError(f"{name} has {len(image)} images but {len(labels)} labels")
    return image, labels


def as_images(image: Any, name: str = "the batch") -> Tensor:
    """Images `[N, C, H, W]` as floats in 0…1: uint8 ones are divided by 255, floats are checked."""
    tensor = as_tensor(image, f"{name} has images that are")
    return check_images(tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor, name)


def check_images(image: Tensor | np.ndarray, name: str = "the batch") -> Tensor:
    """The images, if they are `[N, C, H, W]` of floats in 0…1, as every network here takes them.

    An array of numpy becomes a tensor that shares its memory. The images are read once, which costs
    little beside a network. Nothing is checked while a network is traced or compiled.

    Raises:
        ValueError: For another shape or type, and for pixels that are NaN, infinite or outside.
    """
    if isinstance(image, np.ndarray) and image.dtype.kind in "fiub":
        image = torch.as_tensor(image)
    if not isinstance(image, Tensor):
        raise ValueError(
            f"{name} is {type(image).__name__}; give the images as one tensor or array "
            "[N, C, H, W] of floats in 0…1"
        )
    if torch.compiler.is_compiling() or image.is_meta:
        return image
    check_shape(image, name)
    if not image.is_floating_point():
        kind = str(image.dtype).removeprefix("torch.")
        raise ValueError(f"{name} has images of {kind}; give floats in 0…1: images / 255 of uint8")
    if not image.numel():
        return image
    low, high = (float(x) for x in torch.aminmax(image.detach()))
    if low >= -SLACK and high <= 1 + SLACK:  # False for NaN
        return image
    finite = image.isfinite().flatten(1).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"{name}: NaN or infinite pixels in image {bad[0]} ({len(bad)} in all)")
    raise ValueError(
        f"{name} has pixels in {low:.4g}…{high:.4g}; give floats in 0…1, neither normalised (the "
        "network does that itself) nor in 0…255"
    )


def check_shape(image: Tensor, name: str = "the batch") -> None:
    """Raises a `ValueError` for images that are not `[N, C, H, W]`."""
    shape = tuple(image.shape)
    if image.dim() != 4:
        raise ValueError(f"{name} has images of shape {shape}; give [N, C, H, W]")
    if shape[3] <= 4 < min(shape[1:3]):
        raise ValueError(
            f"{name} has images of shape {shape}, channels last; give [N, C, H, W]: "
            "images.permute(0, 3, 1, 2)"
        )


def as_labels(label: Any, name: str = "the batch") -> Tensor:
    """Labels as int64, `[N]` or `[N, H, W]`; a dimension of one and one-hot rows are taken too.

    Raises:
        ValueError: For text, fractions, several classes an image, and negative numbers other than
            `UNKNOWN` and `VOID`.
    """
    labels = as_tensor(label, f"{name} has labels that are")
    if labels.dtype == torch.bool and not (labels.dim() == 2 and labels.shape[1] > 1):
        raise ValueError(f"{name} has labels True and False; give the index of each class, 0…K−1")
    whole = labels.real.long()
    fractions = labels[labels != whole]
    if len(fractions):
        raise ValueError(
            f"{name} has labels such as {fractions[0].item():.4g}; give the index of each class, "
            "0…K−1"
        )
    whole = _one_each(whole, name)
    stray = whole[(whole < 0) & (whole != UNKNOWN) & (whole != VOID)]
    if len(stray):
        raise ValueError(
            f"{name} has the label {int(stray[0])}; give 0…K−1, {UNKNOWN} for unknown, or {VOID} "
            "for what does not count"
        )
    return whole


def _one_each(labels: Tensor, name: str) -> Tensor:
    """Drops a dimension of one from whole labels, and turns each one-hot row into its class."""
    if labels.dim() in (2, 4) and labels.shape[1] == 1:
        return labels.squeeze(1)
    if labels.dim() == 2 and len(labels):
        if bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
            return labels.argmax(1)
        raise ValueError(
            f"{name} has labels of shape {tuple(labels.shape)} that are not one-hot; give one "
            "class for each image, [N], or for each pixel, [N, H, W]"
        )
    if labels.dim() not in (1, 3) and labels.numel():
        raise ValueError(
            f"{name} has labels of shape {tuple(labels.shape)}; give [N], or [N, H, W] for pixels"
        )
    return labels


def as_tensor(x: Any, said: str) -> Tensor:
    """Turns an array, or a list of numbers or of tensors of one shape, into a tensor."""
    if isinstance(x, Tensor):
        return x
    try:
        if isinstance(x, list | tuple) and x and all(isinstance(each, Tensor) for each in x):
            return torch.stack(list(x))
        return torch.as_tensor(np.asarray(x))
    except (TypeError, ValueError, RuntimeError):
        first = x[0] if isinstance(x, list | tuple | np.ndarray) and len(x) else x
        raise ValueError(
            f"{said} {_kind(x)}, such as {str(first)[:40]!r}; give a tensor: images as "
            "[N, C, H, W] of one size, labels as the index of each class"
        ) from None


def _shape(x: Any) -> str:
    return str(tuple(x.shape)) if hasattr(x, "shape") else ""


def _kind(x: Any) -> str:
    return f"a {type(x).__name__}"
