"""Autoencoders for small images, and for scenes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from openset.networks.base import Normalize, described
from openset.spec import Count


class AutoEncoder(nn.Module):
    """Squeezes an image through a few numbers and gives its reconstruction, in 0…1.

    Args:
        channels: Channels of the image.
        encoder: From the normalised image to the code `[N, latent]`.
        decoder: From the code to `[N, C, H, W]` before the sigmoid.
    """

    spec: dict[str, Any] | None = None

    def __init__(self, channels: int, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.normalize = Normalize([0.5] * channels, [0.5] * channels)
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.encoder(self.normalize(image))).sigmoid()


@described
def autoencoder(
    channels: Count = 1,
    size: int = 28,
    latent: int | None = None,
    width: Count = 32,
    blocks: int | None = None,
) -> AutoEncoder:
    """A convolutional autoencoder that halves the image twice.

    Gray images get plain convolutions, 500 hidden units and a code of 32, as VMDLS has on MNIST;
    colour images get residual blocks and a code of 256, as it has on CIFAR.

    Args:
        channels: Channels of the image.
        size: Height and width of the image, divisible by 4.
        latent: Size of the code; None takes 32 for one channel and 256 for more.
        width: Channels before the first halving; they double with each.
        blocks: Residual blocks per resolution; None takes 0 for one channel and 1 for more.

    Example:
        >>> import torch
        >>> autoencoder(channels=3, size=32)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """
    if size % 4:
        raise ValueError(f"an autoencoder's size must be divisible by 4; got {size}")
    gray = channels == 1
    latent = (32 if gray else 256) if latent is None else latent
    blocks = (0 if gray else 1) if blocks is None else blocks
    hidden = (500,) if gray else ()
    small, side = 2 * width, size // 4
    flat = small * side * side
    encoder = nn.Sequential(
        *stage(nn.Conv2d(channels, width, 3, padding=1), width, blocks),
        *stage(nn.Conv2d(width, small, 4, stride=2, padding=1), small, blocks),
        *stage(nn.Conv2d(small, small, 4, stride=2, padding=1), small, blocks),
        nn.Flatten(),
        *dense(flat, *hidden, latent),
    )
    decoder = nn.Sequential(
        *dense(latent, *hidden, flat),
        nn.ReLU(),
        nn.Unflatten(1, (small, side, side)),
        *stage(nn.ConvTranspose2d(small, small, 4, stride=2, padding=1), small, blocks),
        *stage(nn.ConvTranspose2d(small, width, 4, stride=2, padding=1), width, blocks),
        nn.Conv2d(width, channels, 3, padding=1),
    )
    return AutoEncoder(channels, encoder, decoder)


class SpatialAutoEncoder(AutoEncoder):
    """An autoencoder whose code keeps a grid, so that images may have any size."""

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        return super().forward(image)[:, :, :height, :width]


@described
def spatial_autoencoder(
    channels: Count = 3, latent: Count = 16, width: Count = 32, halvings: Count = 4
) -> SpatialAutoEncoder:
    """An autoencoder for scenes: the code is a coarse map, and images may have any size.

    5×5 convolutions of stride 2 with batch norm and LeakyReLU, `width` channels that double up to
    128, as in the later code of Baur et al., https://arxiv.org/abs/1804.04488, whose grid of 8×8
    has no narrower code.

    Args:
        channels: Channels of the image.
        latent: Channels of the code, for each field of 2^halvings pixels a side.
        width: Channels after the first halving.
        halvings: How often the image is halved.

    Example:
        >>> import torch
        >>> spatial_autoencoder()(torch.rand(2, 3, 45, 80)).shape
        torch.Size([2, 3, 45, 80])
    """
    widths = [min(max(128, width), width * 2**i) for i in range(halvings)]
    down = [
        layer
        for i, o in pairwise([channels, *widths])
        for layer in (nn.Conv2d(i, o, 5, 2, 2, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.3))
    ]
    up = [
        layer
        for i, o in pairwise([latent, *widths[::-1]])
        for layer in (
            nn.ConvTranspose2d(i, o, 5, 2, 2, output_padding=1, bias=False),
            nn.BatchNorm2d(o),
            nn.LeakyReLU(0.3),
        )
    ]
    encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], latent, 1))
    return SpatialAutoEncoder(channels, encoder, nn.Sequential(*up, nn.Conv2d(width, channels, 1)))


class Residual(nn.Module):
    """x + two 3×3 convolutions of x, then ReLU."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.body(x)).relu()


def dense(*widths: int) -> list[nn.Module]:
    """Linear maps from each width to the next, with ReLU between them."""
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return layers[:-1]


def stage(first: nn.Module, width: int, blocks: int) -> list[nn.Module]:
    """One resolution: a convolution with batch norm and ReLU, then residual blocks."""
    return [first, nn.BatchNorm2d(width), nn.ReLU(), *(Residual(width) for _ in range(blocks))]
