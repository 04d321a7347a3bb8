"""A classifier that looks at an image four times, shifted in four ways, and knows which (CSI)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.base import described
from openset.networks.heads.widened import Widened
from openset.spec import Count

SHIFTS = 4
"""Ways in which an image is shifted, the first of which leaves it as it is."""

Shift = Literal["rotation", "cutperm"]


class Shifted(Widened):
    """Four looks of one network at an image, each shifted; the logits are the mean of theirs.

    `projection` and `shift` are run on each look, for a tap: side by side, they give what a
    contrastive loss compares, and four logits of which shift it was. The head is one linear map of
    the four looks' features side by side, so that every detector reads them as any network's.

    Args:
        network: As `Widened` takes it.
        shift: "rotation" by right angles, or "cutperm", which swaps halves.
        dim: Size of the projection.
        head: As `Widened` takes it.
    """

    def __init__(
        self,
        network: nn.Module,
        shift: Shift = "rotation",
        dim: int = 128,
        head: str | None = None,
    ):
        super().__init__(network, head)
        self.kind: Shift = shift
        self.projection = nn.Sequential(
            nn.Linear(self.features, self.features), nn.ReLU(), nn.Linear(self.features, dim)
        )
        self.shift = nn.Linear(self.features, SHIFTS)
        self.head = nn.Linear(SHIFTS * self.features, self.classes)

    def forward(self, image: Tensor) -> Tensor:
        looks = [self.network(shifted_image(image, self.kind, k)) for k in range(SHIFTS)]
        for features in looks:
            self.projection(features)  # Neither is used here: a tap reads them.
            self.shift(features)
        return self.head(torch.cat(looks, dim=1) / SHIFTS)

    def joint(self, features: Tensor) -> Tensor:
        """Logits `[N, 4 · K]` of one look's features `[N, D]`, the classes of each shift in turn.

        Those of the four looks at an image have the mean that `forward` gives.
        """
        parts = self.head.weight.unflatten(1, (SHIFTS, self.features))
        weight = parts.transpose(0, 1).flatten(0, 1)
        return F.linear(features, weight, self.head.bias.repeat(SHIFTS))


def shifted_image(image: Tensor, shift: Shift, k: int) -> Tensor:
    """Images `[N, C, H, W]` in the k-th of four shifts: turned by k · 90°, or with halves swapped.

    Example:
        >>> image = torch.arange(4.0).view(1, 1, 2, 2)
        >>> [shifted_image(image, "cutperm", k).flatten().tolist() for k in (0, 1, 3)]
        [[0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 3.0, 2.0], [3.0, 2.0, 1.0, 0.0]]
    """
    if shift == "rotation":
        return image.rot90(k, (2, 3))
    height, width = image.shape[2:]
    down, right = divmod(k, 2)
    return image.roll((-down * (height // 2), -right * (width // 2)), (2, 3))


@described
def shifted(
    network: nn.Module, shift: Shift = "rotation", dim: Count = 128, head: str | None = None
) -> Shifted:
    """Makes a classifier look four times at an image, each time shifted in another way (CSI).

    Tack et al., 2020, "CSI: Novelty Detection via Contrastive Learning on Distributionally Shifted
    Instances", https://arxiv.org/abs/2007.08176. A tap reads the layers `"projection"` and
    `"shift"`, those of the four looks side by side.

    Args:
        network: From images to logits `[N, K]`, trained or not; its last linear layer is replaced.
        shift: "rotation" by right angles; or "cutperm", which swaps halves, for images such as
            digits that are of another class when they are turned.
        dim: Size of the projection.
        head: Path of that last linear layer; None finds it.

    Example:
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> network, image = shifted(inner), torch.rand(5, 1, 4, 4)
        >>> network(image).shape, network.joint(network.network(image)).shape
        (torch.Size([5, 3]), torch.Size([5, 12]))
    """
    if shift not in get_args(Shift):
        raise ValueError(f"shift must be one of {', '.join(get_args(Shift))}; got {shift!r}")
    return Shifted(network, shift, dim, head)
