"""The contract of extractors, which turn images into the activations that detectors score."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor, nn

from openset.activations import Activations


class Extractor(nn.Module):
    """Turns images into activations that detectors score; detectors that share one share a pass.

    A subclass writes `forward`, and says what it costs and changes by the attributes below.
    """

    looks_again: bool = False
    """Whether an image passes the network more than once."""

    moves_image: bool = False
    """Whether it sees an image moved along a gradient in place of the image itself.

    The plain activations are then no part of its own, and no exported graph can express it.
    """

    @property
    def key(self) -> Hashable:
        """Extractors with the same key give the same activations, so one pass serves them all."""
        return self

    def forward(self, image: Tensor) -> Activations:
        """Activations of images `[N, C, H, W]` in 0…1."""
        raise NotImplementedError

    def both(self, image: Tensor) -> tuple[Activations, Activations]:
        """Activations with the plain ones of the unmoved images, and the extractor's own."""
        seen = self(image)
        return seen, seen
