"""One image whose pixels were scored, small enough for the report to draw at any threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.scoring.scored import Scored

WIDTH = 192
"""The most pixels from side to side."""


@dataclass
class Maps:
    """An image beside the score, the nearest class and the true class of each of its pixels.

    Args:
        image: uint8 `[C, H, W]`.
        score: float32 `[H, W]`; higher = more unknown.
        label: True class, int16 `[H, W]`, with `UNKNOWN` and `VOID`.
        predicted: The known class that fits best, int16 `[H, W]`.
    """

    image: Tensor
    score: Tensor
    label: Tensor
    predicted: Tensor

    @classmethod
    def small(cls, image: Tensor, scored: Scored) -> Self:
        """Shrinks one image `[C, H, W]` in 0…1 and its maps `[H, W]` to at most `WIDTH`."""
        shrink = min(1.0, WIDTH / scored.score.shape[1])
        size = [max(1, round(side * shrink)) for side in scored.score.shape]

        def area(x: Tensor) -> Tensor:
            return F.interpolate(x[None].float().cpu(), size, mode="area")[0]

        def nearest(x: Tensor) -> Tensor:
            return F.interpolate(x[None, None].float(), size, mode="nearest")[0, 0].short()

        return cls(
            (area(image).clamp(0, 1) * 255).round().to(torch.uint8),
            area(scored.score[None])[0],
            nearest(scored.label),
            nearest(scored.predicted),
        )
