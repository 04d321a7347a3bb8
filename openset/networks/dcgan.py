"""The generator and discriminator of DCGAN, for small images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Generator(nn.Module):
    """Turns noise into images in 0…1: 4×4 transposed convolutions, 512 to 256 to 128 maps.

    32×32 is the natural size, from noise `[N, 100, 1, 1]`. A larger image takes a grid of noise,
    and any other size is cut from the middle of the next larger one.

    Paper: Radford et al., "Unsupervised Representation Learning with DCGANs", 2016,
    https://arxiv.org/abs/1511.06434; figures as in Lee et al., "Training Confidence-calibrated
    Classifiers", 2018, https://arxiv.org/abs/1711.09325

    Args:
        channels: Channels of the image.
        width: Maps of the layer before the last, 64 in the paper, times two.
        noise: Values of noise at each place.

    Example:
        >>> Generator(channels=1, width=4).sample(2, size=(28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, channels: int = 3, width: int = 128, noise: int = 100):
        super().__init__()
        self.noise = noise
        self.layers = nn.Sequential(
            *_raise(noise, 4 * width, stride=1, padding=0),
            *_raise(4 * width, 2 * width),
            *_raise(2 * width, width),
            nn.ConvTranspose2d(width, channels, 4, 2, 1),
            nn.Sigmoid(),
        )
        start_as_dcgan(self)

    def forward(self, noise: Tensor) -> Tensor:
        """Images `[N, C, 8(h + 3), 8(w + 3)]` from noise `[N, noise, h, w]`."""
        return self.layers(noise)

    def draw(self, code: Tensor, size: Sequence[int]) -> Tensor:
        """An image `[N, C, *size]` of each code `[N, noise]`: 32×32 pixels, brought to its size."""
        image = self(code[:, :, None, None])
        at_size = image.shape[2:] == tuple(size)
        return image if at_size else F.interpolate(image, tuple(size), mode="bilinear")

    def sample(
        self, n: int, size: tuple[int, int], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws `n` images `[n, C, H, W]`."""
        device = next(self.parameters()).device
        source = device if generator is None else generator.device
        grid = [whole // 8 - 3 for whole in framed(size)]
        noise = torch.randn(n, self.noise, *grid, generator=generator, device=source)
        image = self(noise.to(device))
        (top, left), (height, width) = margins(size), size
        return image[..., top : top + height, left : left + width]


class Discriminator(nn.Module):
    """Gives the logit `[N]` that images `[N, C, H, W]` are real: the generator turned round.

    An image whose size is not natural to the generator gets a black frame up to the next one.

    Args:
        channels: Channels of the image.
        width: Maps of the first layer.
    """

    def __init__(self, channels: int = 3, width: int = 128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            *_lower(width, 2 * width),
            *_lower(2 * width, 4 * width),
            nn.Conv2d(4 * width, 1, 4),
        )
        start_as_dcgan(self)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        (top, left), (tall, wide) = margins((height, width)), framed((height, width))
        image = F.pad(image, (left, wide - width - left, top, tall - height - top))
        return self.layers(image).mean((1, 2, 3))


def framed(size: Iterable[int]) -> list[int]:
    """The next larger multiples of 8 from 32 on."""
    return [max(32, -(-side // 8) * 8) for side in size]


def margins(size: tuple[int, int]) -> list[int]:
    """Rows above and columns left of an image in the middle of its frame."""
    return [(whole - side) // 2 for whole, side in zip(framed(size), size, strict=True)]


def start_as_dcgan(network: nn.Module) -> None:
    """Weights from N(0, 0.02²), those of batch norm from N(1, 0.02²)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, 0.02)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.02)


def _raise(given: int, maps: int, stride: int = 2, padding: int = 1) -> list[nn.Module]:
    """A transposed convolution that doubles height and width, with what follows it."""
    convolution = nn.ConvTranspose2d(given, maps, 4, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(maps), nn.ReLU()]


def _lower(given: int, maps: int) -> list[nn.Module]:
    """A convolution that halves height and width, with what follows it."""
    convolution = nn.Conv2d(given, maps, 4, 2, 1, bias=False)
    return [convolution, nn.BatchNorm2d(maps), nn.LeakyReLU(0.2)]
