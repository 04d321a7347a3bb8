"""Two plain codes of 8-bit images, whose length a flow must beat before its samples count."""

from __future__ import annotations

import torch
from torch import Tensor

from openset.fitted import Fitted

LARGEST = 2**14
"""Values per image up to which each has a histogram of its own."""


class Codes(Fitted):
    """Counts the values of images, for the bits that two plain codes would spend on each.

    The histogram code has a table for each value of an image, where images are small, whole and of
    one size, and else one for each channel. The difference code tells a pixel from the one to its
    left. Both know the very counts of the images that they code, so a flow has no lead over them.

    Example:
        >>> codes = Codes()
        >>> codes.count(torch.tensor([[[[0.0, 1.0]]], [[[0.0, 0.0]]]]), each_pixel=True)
        >>> codes.bits()["histogram_bits"]  # None for the left pixel, 1 for the right one.
        0.5
    """

    histogram: Tensor
    differences: Tensor
    width: Tensor

    def __init__(self):
        super().__init__()
        self.clear()

    def clear(self) -> None:
        """Forgets what was counted."""
        for name in list(self._buffers):
            self._buffers.pop(name)

    def count(
        self, image: Tensor, chosen: Tensor | None = None, *, each_pixel: bool = False
    ) -> None:
        """Counts images `[N, C, H, W]` in 0…1, or those of them that are chosen `[N]`."""
        self.to(image.device)  # A checkpoint is read on the CPU.
        value = (255 * image.detach().float()).round().long()
        each = torch.ones(len(image), device=image.device) if chosen is None else chosen.float()
        channels, height, width = value.shape[1:]
        alone = each_pixel and value[0].numel() <= LARGEST
        tables = value[0].numel() if alone else channels
        if "histogram" not in self._buffers:
            self.keep(
                histogram=torch.zeros(tables, 256, device=image.device),
                differences=torch.zeros(511, device=image.device),
                width=torch.zeros(2, device=image.device),
            )
        which = torch.arange(tables, device=image.device)
        which = which.view(channels, height, width) if alone else which.view(-1, 1, 1)
        _add(self.histogram, value + 256 * which, each)
        _add(self.differences, value.diff(dim=-1) + 255, each)
        self.width += torch.stack([each.sum() * width, each.sum()])

    def bits(self) -> dict[str, float]:
        """Bits per value: of the histogram code, and of the difference code."""
        if "histogram" not in self._buffers:
            return {}
        width = float(self.width[0] / self.width[1].clamp(min=1))
        # The first pixel of each row has no left neighbour, and costs its 8 bits.
        differences = (8 + (width - 1) * _entropy(self.differences)) / max(width, 1)
        return {"histogram_bits": _entropy(self.histogram), "difference_bits": differences}


def _add(counts: Tensor, index: Tensor, each: Tensor) -> None:
    weight = each.view(-1, 1, 1, 1).expand(index.shape)
    counts.view(-1).scatter_add_(0, index.flatten(), weight.flatten())


def _entropy(counts: Tensor) -> float:
    """Mean entropy of the tables `[…, values]` in bits, each as often as it was counted."""
    counts = counts.double()
    each = counts.sum(-1, keepdim=True).clamp(min=1)
    share = counts / each
    bits = -(share * share.clamp_min(1e-12).log2()).sum(-1)
    return float((bits * each.squeeze(-1)).sum() / each.sum())
