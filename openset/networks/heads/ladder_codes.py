"""Codes of an image at every resolution, from which it can be drawn again (CROSR's DHRNet)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.base import described, need_stages


class Codes(nn.Module):
    """The largest values of L code maps `[N, code, H, W]` side by side, `[N, L · code]`."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat([x.amax((2, 3)) for x in maps], dim=1)


class LadderCodes(nn.Module):
    """A classifier whose stages each have a narrow side branch, through which it can redraw images.

    The logits are the classifier's own, to the bit; `code` gives the codes. `reconstruct` runs the
    way back, from the last stage to the image, which only training needs.

    Args:
        network: A network in stages, as those of openset are; it is held, not copied.
        code: Channels of each side branch.
    """

    spec: dict[str, Any] | None = None

    def __init__(self, network: nn.Module, code: int = 32):
        super().__init__()
        self.network = need_stages(network, "codes at every stage")
        channels, widths = len(self.normalize.get_buffer("mean")), self.network.widths()
        self.narrow = nn.ModuleList(nn.Conv2d(width, code, 3, padding=1) for width in widths)
        self.widen = nn.ModuleList(nn.Conv2d(code, width, 3, padding=1) for width in widths)
        below = (channels, *widths[:-1])
        self.down = nn.ModuleList(
            nn.Conv2d(width, out, 3, padding=1) for width, out in zip(widths, below, strict=True)
        )
        self.code = Codes()
        self.stages = tuple(f"network.{stage}" for stage in self.network.stages)

    @property
    def normalize(self) -> nn.Module:
        """The normalisation inside the backbone."""
        return self.network.normalize

    def forward(self, image: Tensor) -> Tensor:
        logits, maps = self.encode(image)
        self.code(maps)  # Not used here: a tap reads it.
        return logits

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `[N, K]` of images, and the code maps `[N, code, H, W]` of the stages."""
        wide = self.network.maps(image)
        maps = [F.relu(narrow(x)) for x, narrow in zip(wide, self.narrow, strict=True)]
        return self.network.head(self.network.neck(wide[-1])), maps

    def reconstruct(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Images `[N, C, *size]` in 0…1 drawn from the code maps of all stages."""
        sizes = [size, *(x.shape[2:] for x in maps[:-1])]
        way = zip(maps, self.widen, self.down, sizes, strict=True)
        x = None
        for code, widen, down, larger in reversed([*way]):
            x = widen(code) if x is None else F.relu(x) + widen(code)
            x = down(F.interpolate(x, tuple(larger), mode="nearest"))
        assert x is not None
        return x.sigmoid()


@described
def ladder_codes(network: nn.Module, code: int = 32) -> LadderCodes:
    """Puts a narrow side branch on each stage of a classifier, through which it can redraw images.

    Yoshihashi et al., 2019, "Classification-Reconstruction Learning for Open-Set Recognition",
    https://arxiv.org/abs/1812.04246 (DHRNet). A tap reads the codes as the layer `"code"`.

    Args:
        network: A network in stages, trained or not; it is held, not copied.
        code: Channels of each side branch.

    Example:
        >>> from openset.networks import cnn
        >>> network = ladder_codes(cnn(classes=3, channels=1, widths=(4, 8)), code=5)
        >>> logits, maps = network.encode(torch.rand(2, 1, 8, 8))
        >>> network.code(maps).shape, network.reconstruct(maps, (8, 8)).shape
        (torch.Size([2, 10]), torch.Size([2, 1, 8, 8]))
    """
    return LadderCodes(network, code)
