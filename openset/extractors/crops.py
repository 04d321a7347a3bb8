"""A look at parts of an image, the same for every image."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.extractors.base import Extractor
from openset.extractors.tap import Tap

AREA = 0.54
"""Share of the image that a crop shows, as published for CSI."""

PREFIX = "crops of "
"""Stands before a layer's name for its mean over the crops."""


class Crops(Extractor):
    """Adds the mean of layers over fixed parts of an image, each enlarged to the image's size.

    `features["crops of LAYER"]` holds it. Where the crops lie is drawn once from the seed and is
    the same for every image, so that what is seen of one does not depend on those beside it.

    Args:
        tap: From an image to activations; they are passed on.
        layers: The layers to average, which the tap must record.
        count: Number of crops.
        seed: Seed of their places.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 3))
        >>> seen = Crops(Tap(network, ["1"]), ["1"], count=3)(torch.rand(2, 1, 4, 4))
        >>> seen.features["crops of 1"].shape
        torch.Size([2, 8])
    """

    looks_again = True

    def __init__(self, tap: Tap, layers: Sequence[str], count: int = 10, seed: int = 0):
        super().__init__()
        self.tap, self.layers, self.count, self.seed = tap, tuple(layers), count, seed
        draw = Random(seed).random  # Not torch's: an export would take them for its inputs.
        self.places = [(draw(), draw()) for _ in range(count)]

    @property
    def key(self) -> Hashable:
        return self.tap.key, "crops", self.layers, self.count, self.seed

    def forward(self, image: Tensor) -> Activations:
        seen = self.tap(image)
        looks = [self.tap(crop(image, down, right)) for down, right in self.places]
        found = {
            PREFIX + layer: torch.stack([look.values(layer) for look in looks]).mean(0)
            for layer in self.layers
        }
        return replace(seen, features={**seen.features, **found})


def crop(image: Tensor, down: float, right: float) -> Tensor:
    """A part of images `[N, C, H, W]`, enlarged to their size; its place is in 0…1 of the room."""
    size = (image.shape[2], image.shape[3])
    height, width = (max(1, round(side * AREA**0.5)) for side in size)
    top, left = int(down * (size[0] - height + 1)), int(right * (size[1] - width + 1))
    part = image[:, :, top : top + height, left : left + width]
    return F.interpolate(part, size, mode="bilinear", align_corners=False)
