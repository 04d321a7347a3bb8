"""A second look at an image through an autoencoder (VMDLS)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from torch import Tensor, nn

from openset.activations import Activations
from openset.extractors.base import Extractor
from openset.extractors.tap import Tap, reduce
from openset.networks.device import device_of, dtype_of
from openset.networks.layers import resolve
from openset.networks.trial import widths
from openset.networks.watch import evaluating, output_of


class Reconstruct(Extractor):
    """Adds how much a layer changes when the network sees the image's reconstruction instead.

    `extra["reconstruction"]` is the mean squared difference of the pooled layer between the image
    and its reconstruction. An early layer keeps the fine detail that an autoencoder of known images
    loses on unknown ones.

    Args:
        tap: From an image to activations; they are passed on unchanged.
        autoencoder: From images in 0…1 to images in 0…1 of the same shape; it runs in evaluation
            mode.
        layer: The layer that is compared.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
        >>> look = Reconstruct(Tap(network), nn.Identity(), layer="0")
        >>> look(torch.rand(2, 1, 8, 8)).extra["reconstruction"].tolist()
        [0.0, 0.0]
    """

    looks_again = True

    def __init__(self, tap: Tap, autoencoder: nn.Module, layer: str = "stage1"):
        super().__init__()
        self.tap, self.autoencoder, self.layer = tap, autoencoder, layer
        self.path = resolve(tap.network, layer)
        same = [name for name, path in tap.paths.items() if path == self.path]
        self.recorded = same[0] if same else None

    @property
    def key(self) -> Hashable:
        return self.tap.key, self.autoencoder, self.path

    def forward(self, image: Tensor) -> Activations:
        activations = self.tap(image)
        image_again = self._reconstructed(image)
        after = self._pooled(image_again, activations)
        if self.recorded is None:
            before = self._pooled(image, activations)
        else:
            # Of a layer that runs several times, the first run is compared.
            before = activations.values(self.recorded)[:, : after.shape[1]]
        difference = (before - after).square().mean(1)
        return replace(activations, extra={**activations.extra, "reconstruction": difference})

    def _reconstructed(self, image: Tensor) -> Tensor:
        if device_of(self.autoencoder) != image.device:
            self.autoencoder.to(image.device)
        with evaluating(self.autoencoder):
            again = self.autoencoder(image.to(dtype_of(self.autoencoder)))
        if again.shape != image.shape:
            raise ValueError(
                f"the autoencoder gave {list(again.shape)} for images {list(image.shape)}; "
                "both must agree, so train it on images of this size and these channels"
            )
        return again

    def _pooled(self, image: Tensor, activations: Activations) -> Tensor:
        network = self.tap.network
        with evaluating(network):
            x = output_of(network, self.path, image.to(dtype_of(network)))
        x = widths(network, network.get_submodule(self.path)).channels_first(x)
        return reduce(x, activations.logits)
