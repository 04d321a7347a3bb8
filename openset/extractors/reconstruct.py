"""A second look at an image through an autoencoder (VMDLS)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from openset.activations import Activations
from openset.extractors.tap import Tap, reduce
from openset.networks.layers import evaluating, output_of, resolve


class Reconstruct(nn.Module):
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

    def __init__(self, tap: Tap, autoencoder: nn.Module, layer: str = "stage1"):
        super().__init__()
        self.tap, self.autoencoder, self.layer = tap, autoencoder, layer
        self.path = resolve(tap.network, layer)
        same = [name for name, path in tap.paths.items() if path == self.path]
        self.recorded = same[0] if same else None

    @property
    def key(self) -> tuple[nn.Module, nn.Module, str]:
        """Views with the same key give the same activations: those of the tap, and one value."""
        return self.tap, self.autoencoder, self.layer

    def forward(self, image: Tensor) -> Activations:
        activations = self.tap(image)
        with evaluating(self.autoencoder):
            image_again = self.autoencoder.to(image.device)(image)
        if image_again.shape != image.shape:
            raise ValueError(
                f"the autoencoder gave {list(image_again.shape)} for images {list(image.shape)}; "
                "both must agree, so train it on images of this size and these channels"
            )
        if self.recorded is None:
            before = self._pooled(image, activations)
        else:
            before = activations.values(self.recorded)
        difference = (before - self._pooled(image_again, activations)).square().mean(1)
        return replace(activations, extra={**activations.extra, "reconstruction": difference})

    def _pooled(self, image: Tensor, activations: Activations) -> Tensor:
        with evaluating(self.tap.network):
            return reduce(output_of(self.tap.network, self.path, image), activations.logits)
