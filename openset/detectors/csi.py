"""CSI: likeness to the nearest training image, and how surely its shifts are told apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, sampled
from openset.extractors.base import Extractor
from openset.extractors.crops import PREFIX, Crops
from openset.extractors.tap import Tap
from openset.networks.heads.shifted import SHIFTS
from openset.spec import Count, Range

LAYERS = ("projection", "shift")
"""What a network of `shifted` gives beside its logits, of all looks side by side."""


class CSI(Detector):
    """Scores an image by its likeness to the nearest training image, over four shifts of it.

    With z_s the projection of the image in shift s, not brought to unit length, and a the
    directions of the training images in it, the score is minus the mean over s of

        max_a ⟨z_s, a⟩ / mean ‖z_s‖ + (logit that it is shift s) / (its mean),

    means being over training images. It needs no label of a class, and the label that it answers
    is the classifier's. z and logits are means over the same crops of every image; the directions
    are those of whole training images, a sample of which is kept. For a network trained with the
    objective `csi`; it reads the layers `"projection"` and `"shift"`.

    Paper: Tack et al., *CSI: Novelty Detection via Contrastive Learning on Distributionally Shifted
    Instances*, 2020, https://arxiv.org/abs/2007.08176, whose code draws crops anew by an image's
    place in its batch.

    Args:
        crops: Parts of an image that are looked at, four times each; 0 looks at the whole alone.
        max_rows: The most training images kept, a seeded sample of all.
        seed: Seed of the sample and of the crops.

    Example:
        >>> z, shift = torch.eye(2).repeat(2, 4), torch.eye(4).view(1, 16).repeat(4, 1)
        >>> features = {"projection": z, "shift": shift}
        >>> seen = Activations(z[:, :2], features, torch.tensor([0, 1] * 2))
        >>> CSI(crops=0).fit([seen])(seen)
        tensor([-2., -2., -2., -2.])
    """

    name = "csi"
    layers = LAYERS
    objectives = ("csi",)
    directions: Tensor
    means: Tensor

    def __init__(
        self,
        crops: Annotated[int, Range(least=0)] = 10,
        max_rows: Count = 5_000,
        seed: int = 0,
    ):
        super().__init__()
        self.crops, self.max_rows, self.seed = crops, max_rows, seed

    @property
    def looks_again(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.crops > 0

    def view(self, tap: Tap) -> Extractor:
        return Crops(tap, LAYERS, self.crops, self.seed) if self.looks_again else tap

    def fit(self, batches: Iterable[Activations]) -> Self:
        kept = sampled(Rows(batches, LAYERS), self.max_rows, self.seed)
        z, logits = split(kept[:, : -(SHIFTS**2)], kept[:, -(SHIFTS**2) :])
        # A shift that is told wrongly on average would turn its part of the score round.
        told = logits.mean(0).clamp_min(1e-3)
        self.keep(
            directions=F.normalize(z, dim=2).transpose(0, 1),
            means=torch.stack([z.norm(dim=2).mean(0), told]),
        )
        return self

    def score(self, rows: Activations) -> Tensor:
        names = (f"{PREFIX}{layer}" if self.looks_again else layer for layer in LAYERS)
        z, logits = split(*(rows.values(name) for name in names))
        nearest = (z.transpose(0, 1) @ self.directions.to(z.dtype).mT).amax(2).T
        length, told = self.means.to(z.dtype)
        return -(nearest / length + logits / told).mean(1)


def split(projection: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Projections `[M, 4, D]`, and logits `[M, 4]` of the shift that each look has, of rows."""
    told = shift.unflatten(1, (SHIFTS, SHIFTS)).diagonal(dim1=1, dim2=2)
    return projection.unflatten(1, (SHIFTS, -1)), told
