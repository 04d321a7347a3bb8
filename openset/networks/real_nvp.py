"""Real NVP: an invertible network that draws images and knows how probable an image is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from openset.networks.base import described
from openset.spec import Count

Pattern = Callable[[Tensor], Tensor]
"""Function from values `[N, C, H, W]` to a mask of 0 and 1 that fits them."""


class RealNVP(nn.Module):
    """Gives the density of an image in closed form, and draws new images of any size.

    Affine couplings in a pyramid: on each level a few with checkerboard masks, a squeeze of 2×2
    pixels into channels, a few with channel masks, and half of the channels leave as latents; the
    last level has checkerboards only. The density is that of images with 256 grey levels, spread
    by uniform noise of one level, on a logit scale. It is convolutional throughout, so height and
    width may be any multiple of `stride`. All arithmetic stays in the type of the parameters,
    under autocast too, since a log-determinant in half precision is no use.

    Paper: Dinh et al., "Density estimation using Real NVP", 2017, https://arxiv.org/abs/1605.08803

    Args:
        channels: Channels of the image.
        squeezes: Times that height and width are halved.
        couplings: Couplings with each kind of mask on each level.
        blocks: Residual blocks in the network of each coupling.
        width: Feature maps in the network of each coupling.
        alpha: The logit is taken of alpha + (1 − 2 alpha) image, so that 0 and 1 stay finite.
        checkpoint: Compute each coupling again in the backward pass instead of storing it.

    Example:
        >>> flow = real_nvp(channels=1, blocks=1, width=8)
        >>> flow.log_prob(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2])
        >>> flow.sample(2, size=(8, 12)).shape
        torch.Size([2, 1, 8, 12])
    """

    spec: dict[str, Any] | None = None

    def __init__(
        self,
        channels: int,
        squeezes: int = 2,
        couplings: int = 3,
        blocks: int = 3,
        width: int = 32,
        alpha: float = 0.05,
        checkpoint: bool = False,
    ):
        super().__init__()
        self.channels, self.alpha, self.stride = channels, alpha, 2**squeezes
        shape = (blocks, width, checkpoint)
        self.levels = nn.ModuleList(
            Level(channels * 2**i, couplings, *shape) for i in range(squeezes)
        )
        self.last = Couplings(checkerboard, channels * self.stride, couplings + 1, *shape)

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The same as `encode`."""
        return self.encode(image)

    def encode(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Latents, one tensor per level, and log |det ∂latents/∂image| `[N]`.

        The image `[N, C, H, W]` is taken as it is, without noise; `decode` gives it back.

        Raises:
            ValueError: If height or width is no multiple of `stride`.
        """
        self.latent_shapes(tuple(image.shape[-2:]))
        with torch.autocast(image.device.type, enabled=False):
            x, log_det = self._logit(image.to(self._dtype))
            latents = []
            for level in self.levels:
                x, latent, change = level(x)
                latents.append(latent)
                log_det = log_det + change
            x, change = self.last(x)
        return [*latents, x], log_det + change

    def decode(self, latents: list[Tensor]) -> Tensor:
        """The image `[N, C, H, W]` of the latents that `encode` gave: its exact inverse.

        Latents that come from no image may land a little outside 0…1; `sample` clips them.
        """
        with torch.autocast(latents[0].device.type, enabled=False):
            *outer, x = [latent.to(self._dtype) for latent in latents]
            x = self.last.inverse(x)
            for level, latent in zip(reversed(self.levels), reversed(outer), strict=True):
                assert isinstance(level, Level)
                x = level.inverse(x, latent)
            return (x.sigmoid() - self.alpha) / (1 - 2 * self.alpha)

    def log_prob(self, image: Tensor, noise: Tensor | float | None = None) -> Tensor:
        """Log density of each image, `[N]` in nats, over the unit cube of its pixels.

        Args:
            image: `[N, C, H, W]` in 0…1, with 256 levels.
            noise: Where in its grey level each pixel lies, 0…1. None draws it, as training needs;
                0.5 always gives the same answer, a little too favourable.
        """
        noise = torch.rand_like(image, dtype=self._dtype) if noise is None else noise
        latents, log_det = self.encode((255 * image.to(self._dtype) + noise) / 256)
        return log_det + sum(_standard_normal(latent) for latent in latents)

    def bits_per_dimension(self, image: Tensor, noise: Tensor | float | None = None) -> Tensor:
        """Bits that an ideal code spends on each value of the 8-bit image, `[N]`; lower is better.

        The arguments are those of `log_prob`.
        """
        return 8 - self.log_prob(image, noise) / (math.log(2) * image[0].numel())

    def sample(
        self,
        n: int,
        size: tuple[int, int],
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draws `n` images `[n, C, H, W]` in 0…1, through which gradients reach the parameters.

        Args:
            n: Number of images.
            size: Height and width, each a multiple of `stride`.
            generator: Source of the latents; None takes PyTorch's own.
            temperature: Standard deviation of the latents.
        """
        device = next(self.parameters()).device
        source = device if generator is None else generator.device
        latents = [
            torch.randn(n, *shape, generator=generator, device=source).to(device) * temperature
            for shape in self.latent_shapes(size)
        ]
        return self.decode(latents).clamp(0, 1)

    def latent_shapes(self, size: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """Channels, height and width of each level's latents for images of this size."""
        height, width = size
        if height % self.stride or width % self.stride or not height or not width:
            raise ValueError(
                f"the flow got size {height}×{width}; it needs multiples of {self.stride}: "
                "crop or pad the image, or set squeezes"
            )
        depths = range(1, len(self.levels) + 1)
        shapes = [(self.channels * 2**i, height // 2**i, width // 2**i) for i in depths]
        return [*shapes, (self.channels * self.stride, height // self.stride, width // self.stride)]

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _logit(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.alpha + (1 - 2 * self.alpha) * image
        log_slope = math.log(1 - 2 * self.alpha) - x.log() - (-x).log1p()
        return x.logit(), log_slope.sum((1, 2, 3))


class Level(nn.Module):
    """Checkerboard couplings, a squeeze, channel couplings; half of the channels leave."""

    def __init__(self, channels: int, couplings: int, *shape: Any):
        super().__init__()
        self.fine = Couplings(checkerboard, channels, couplings, *shape)
        self.coarse = Couplings(half_of_channels, 4 * channels, couplings, *shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The channels that stay, those that leave, and the log-determinant `[N]`."""
        x, fine = self.fine(x)
        x, coarse = self.coarse(squeeze(x))
        x, latent = x.chunk(2, dim=1)
        return x, latent, fine + coarse

    def inverse(self, x: Tensor, latent: Tensor) -> Tensor:
        x = self.coarse.inverse(torch.cat([x, latent], dim=1))
        return self.fine.inverse(unsqueeze(x))


class Couplings(nn.Module):
    """Couplings with one kind of mask; each moves what the one before it left."""

    def __init__(self, pattern: Pattern, channels: int, count: int, *shape: Any):
        super().__init__()
        self.each = nn.ModuleList(
            Coupling(pattern, i % 2 == 1, channels, *shape) for i in range(count)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for coupling in self.each:
            x, change = coupling(x)
            log_det = log_det + change
        return x, log_det

    def inverse(self, y: Tensor) -> Tensor:
        for coupling in reversed(self.each):
            assert isinstance(coupling, Coupling)
            y = coupling.inverse(y)
        return y


class Coupling(nn.Module):
    """y = x on one half of the values and y = x · exp(s) + t on the other.

    A residual network gives s and t from the first half. It has weight norm and no batch norm, so
    the inverse is exact in training too, and computing it twice (checkpointing) changes nothing.
    """

    def __init__(
        self,
        pattern: Pattern,
        flip: bool,
        channels: int,
        blocks: int,
        width: int,
        checkpoint: bool,
    ):
        super().__init__()
        self.pattern, self.flip, self.checkpoint = pattern, flip, checkpoint
        last = nn.Conv2d(width, 2 * channels, 1)
        # Zero weights make the flow start as the identity, which trains from the first step.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
        self.network = nn.Sequential(
            weight_norm(nn.Conv2d(channels, width, 3, padding=1)),
            *(Residual(width) for _ in range(blocks)),
            nn.ReLU(),
            last,
        )
        self.reach = nn.Parameter(torch.ones(channels, 1, 1))

    def extra_repr(self) -> str:
        return f"pattern={getattr(self.pattern, '__name__', self.pattern)}, flip={self.flip}"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The coupled values, and the log-determinant `[N]`."""
        return self._run(self._couple, x)

    def inverse(self, y: Tensor) -> Tensor:
        return self._run(self._uncouple, y)

    def _run(self, transform: Callable[[Tensor], Any], x: Tensor) -> Any:
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(transform, x, use_reentrant=False, preserve_rng_state=False)
        return transform(x)

    def _couple(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._affine(x)
        return x * log_scale.exp() + shift, log_scale.sum((1, 2, 3))

    def _uncouple(self, y: Tensor) -> Tensor:
        log_scale, shift = self._affine(y)
        return (y - shift) * (-log_scale).exp()

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = self.pattern(x)
        mask = 1 - mask if self.flip else mask
        log_scale, shift = self.network(x * mask).chunk(2, dim=1)
        # tanh bounds the scale: one coupling cannot blow up what the next ones then undo.
        return self.reach * log_scale.tanh() * (1 - mask), shift * (1 - mask)


class Residual(nn.Module):
    """x plus two 3×3 convolutions of it."""

    def __init__(self, width: int):
        super().__init__()
        self.first = weight_norm(nn.Conv2d(width, width, 3, padding=1))
        self.second = weight_norm(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x.relu()).relu())


def checkerboard(x: Tensor) -> Tensor:
    """1 where row + column is even, `[1, 1, H, W]`."""
    rows = torch.arange(x.shape[2], device=x.device)[:, None]
    columns = torch.arange(x.shape[3], device=x.device)
    return ((rows + columns + 1) % 2).to(x.dtype)[None, None]


def half_of_channels(x: Tensor) -> Tensor:
    """1 on the first half of the channels, `[1, C, 1, 1]`."""
    channels = torch.arange(x.shape[1], device=x.device)
    return (channels < x.shape[1] // 2).to(x.dtype).view(1, -1, 1, 1)


def squeeze(x: Tensor) -> Tensor:
    """Each 2×2 square of pixels into channels, `[N, C, H, W]` → `[N, 4C, H/2, W/2]`.

    The main diagonals of all channels come first, so each half of the channels is a checkerboard.
    """
    n, channels, height, width = x.shape
    x = x.view(n, channels, height // 2, 2, width // 2, 2).permute(3, 5, 0, 1, 2, 4)
    return torch.cat([x[0, 0], x[1, 1], x[0, 1], x[1, 0]], dim=1)


def unsqueeze(x: Tensor) -> Tensor:
    """The inverse of `squeeze`."""
    n, channels, height, width = x.shape
    a, d, b, c = x.chunk(4, dim=1)
    x = torch.stack([torch.stack([a, b], dim=-1), torch.stack([c, d], dim=-1)], dim=-3)
    return x.reshape(n, channels // 4, 2 * height, 2 * width)


def _standard_normal(latent: Tensor) -> Tensor:
    return -0.5 * (latent.square() + math.log(2 * math.pi)).sum((1, 2, 3))


@described
def real_nvp(
    channels: Count = 3,
    squeezes: int = 2,
    couplings: int = 3,
    blocks: int = 3,
    width: Count = 32,
    checkpoint: bool = False,
) -> RealNVP:
    """A `RealNVP` that a saved spec can build again."""
    return RealNVP(channels, squeezes, couplings, blocks, width, checkpoint=checkpoint)
