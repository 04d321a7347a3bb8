"""A second look at an image through an autoencoder: of a layer (VMDLS), or of its pixels."""

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
        image_again = reconstructed(self.autoencoder, image)
        after = self._pooled(image_again, activations)
        if self.recorded is None:
            before = self._pooled(image, activations)
        else:
            # Of a layer that runs several times, the first run is compared.
            before = activations.values(self.recorded)[:, : after.shape[1]]
        difference = (before - after).square().mean(1)
        return replace(activations, extra={**activations.extra, "reconstruction": difference})

    def _pooled(self, image: Tensor, activations: Activations) -> Tensor:
        return reduce(layer_of(self.tap.network, self.path, image), activations.logits)


class Residual(Extractor):
    """Adds how far each pixel is from its reconstruction, whatever the network makes of it.

    `extra["residual"]` is Σ |x − x̂| over the channels: the mean over a whole image, or one value
    for each pixel of the grid of a network that labels pixels.

    Args:
        tap: From an image to activations; they are passed on unchanged.
        autoencoder: As for `Reconstruct`.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> look = Residual(Tap(network), nn.Identity())
        >>> look(torch.rand(2, 1, 2, 2)).extra["residual"].tolist()
        [0.0, 0.0]
    """

    looks_again = True

    def __init__(self, tap: Tap, autoencoder: nn.Module):
        super().__init__()
        self.tap, self.autoencoder = tap, autoencoder

    @property
    def key(self) -> Hashable:
        return self.tap.key, "residual", self.autoencoder

    def forward(self, image: Tensor) -> Activations:
        seen = self.tap(image)
        difference = (image - reconstructed(self.autoencoder, image)).abs()
        residual = reduce(difference.sum(1, keepdim=True), seen.logits).squeeze(1)
        return replace(seen, extra={**seen.extra, "residual": residual})


def layer_of(network: nn.Module, path: str, image: Tensor) -> Tensor:
    """What a network's layer makes of images, `[N, D, *places]`, in evaluation mode."""
    with evaluating(network):
        x = output_of(network, path, image.to(dtype_of(network)))
    return widths(network, network.get_submodule(path)).channels_first(x)


def reconstructed(network: nn.Module, image: Tensor, code: Tensor | None = None) -> Tensor:
    """What an autoencoder makes of images, in evaluation mode and on their device.

    Args:
        network: An autoencoder, or a generator.
        image: `[N, C, H, W]`.
        code: What a generator draws the images from; an autoencoder gets the images.
    """
    if device_of(network) != image.device:
        network.to(image.device)
    with evaluating(network):
        again = network((image if code is None else code).to(dtype_of(network)))
    if again.shape != image.shape:
        kind = "autoencoder" if code is None else "generator"
        raise ValueError(
            f"the {kind} gave {list(again.shape)} for images {list(image.shape)}; "
            "both must agree, so train it on images of this size and these channels"
        )
    return again


def need_network(network: object, setting: str = "autoencoder") -> None:
    """Raises for a setting that should be a network and is none."""
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"{setting} must be a network; got {network!r}; read that of a run by "
            "openset.runs.run.Run.load(folder).load_network()"
        )
