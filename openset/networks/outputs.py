"""Finds the logits in whatever a network puts out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

NAMES = ("logits", "out")
"""Names under which dictionaries and objects of other libraries hold their logits."""


def logits_of(output: Any) -> Tensor:
    """The logits in what a network put out.

    Args:
        output: A tensor; a dictionary, or an object such as Hugging Face's `ModelOutput`, with
            `logits` or `out`; or several things, of which the first that can be logits counts.

    Returns:
        `[N, K]`, or `[N, K, H, W]` of a network that labels pixels.

    Raises:
        ValueError: If there are none.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, 3)
        >>> logits_of({"loss": torch.zeros(()), "logits": x}) is x, logits_of((x, None)) is x
        (True, True)
    """
    found = first_logits(output)
    if found is None:
        raise ValueError(
            f"the network gave {_described(output)}; expected logits [N, K] or [N, K, H, W]"
        )
    return found


def enlarged(logits: Tensor, image: Tensor) -> Tensor:
    """The logits of pixels, brought to the image's size bilinearly; those of images as they are.

    Many networks give them on a quarter of the image's grid and mean them to be enlarged.

    Args:
        logits: `[N, K]` or `[N, K, h, w]`.
        image: `[N, C, H, W]`.
    """
    if logits.dim() != 4 or logits.shape[2:] == image.shape[2:]:
        return logits
    size = (image.shape[2], image.shape[3])
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def first_logits(output: Any) -> Tensor | None:
    """The logits in what a network put out, or None if there are none."""
    return next((x for x in _tensors(output) if x.dim() in (2, 4)), None)


def _tensors(output: Any) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    held = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
    named = [held[name] for name in NAMES if name in held]
    several = output if isinstance(output, tuple | list) else held.values()
    return [x for x in (named or several) if isinstance(x, Tensor)]


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {list(output.shape)}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with {', '.join(map(str, output)) or 'nothing'}"
    return f"a {type(output).__name__}"
