"""A second look at an image through what a generator makes of its class map (SynthCP)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F

from openset.activations import Activations
from openset.extractors.base import Extractor
from openset.extractors.reconstruct import layer_of, reconstructed
from openset.extractors.tap import Tap, reduce
from openset.networks.layers import find_stages, resolve
from openset.networks.spade import class_maps


class Resynthesise(Extractor):
    """Adds how alike an image is to one that is drawn from the classes the network sees in it.

    `extra["resemblance"]` is the cosine of a layer's features of both, at each of its places, on
    the grid of the logits; of whole images, whose class is drawn everywhere, that of the pooled
    features.

    Args:
        tap: From an image to activations; they are passed on.
        generator: From class maps `[N, K, H, W]` to images `[N, C, H, W]` in 0…1.
        layer: The layer that is compared; None takes the last stage.

    Example:
        >>> import torch
        >>> from openset.networks import spade
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1))
        >>> look = Resynthesise(Tap(network), spade(classes=2, width=4), layer="0")
        >>> look(torch.rand(1, 3, 8, 8)).extra["resemblance"].shape
        torch.Size([1, 8, 8])
    """

    looks_again = True

    def __init__(self, tap: Tap, generator: nn.Module, layer: str | None = None):
        super().__init__()
        self.tap, self.generator = tap, generator
        self.path = resolve(tap.network, layer or f"stage{len(find_stages(tap.network))}")

    @property
    def key(self) -> Hashable:
        return self.tap.key, "resynthesise", self.generator, self.path

    def forward(self, image: Tensor) -> Activations:
        seen = self.tap(image)
        classes, draws = seen.logits.shape[1], getattr(self.generator, "classes", None)
        if draws not in (None, classes):
            raise ValueError(
                f"the generator draws from maps of {draws} classes, the network tells {classes}; "
                "train both on the same known classes"
            )
        maps = class_maps(seen.logits.argmax(1), classes, image.shape[2:])
        looks = (image, reconstructed(self.generator, image, maps))
        before, after = (layer_of(self.tap.network, self.path, look).float() for look in looks)
        if seen.grid:
            alike = F.cosine_similarity(before, after, dim=1)
            alike = reduce(alike[:, None], seen.logits).squeeze(1)
        else:
            pooled = (reduce(x, seen.logits) for x in (before, after))
            alike = F.cosine_similarity(*pooled, dim=1)
        return replace(seen, extra={**seen.extra, "resemblance": alike})
