"""Real NVP: an invertible network that draws images and knows how probable an image is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from openset.networks.base import described
from openset.spec import Count


class RealNVP(nn.Module):
    """Gives the density of an image in closed form, and draws new images of any size.

    Affine couplings in a pyramid: on each level a squeeze of 2×2 pixels into channels, couplings,
    and half of the channels leave as latents; on the last level all do. Squeezed, the two halves of
    the channels are the two colours of a checkerboard, from which the first coupling starts; before
    each, channels are mixed by a learned matrix (Glow), which colour images need. The density is
    that of images with 256 grey levels, spread by uniform noise of one level, on a logit scale. It
    is convolutional throughout, so height and width may be any multiple of `stride`. All arithmetic
    stays in the type of the parameters, under autocast too, since a log-determinant in half
    precision is no use.

    Papers: Dinh et al., "Density estimation using Real NVP", 2017, https://arxiv.org/abs/1605.08803;
    the mixing of channels from Kingma & Dhariwal, "Glow", 2018, https://arxiv.org/abs/1807.03039

    Args:
        channels: Channels of the image.
        squeezes: Times that height and width are halved.
        couplings: Couplings on each level.
        blocks: Residual blocks in the network of each coupling.
        width: Feature maps in the network of each coupling.
        alpha: The logit is taken of alpha + (1 − 2 alpha) image, so that 0 and 1 stay finite. The
            smaller it is, the more room black and white pixels get, of which drawings are made.
        checkpoint: Compute each coupling again in the backward pass instead of storing it.

    Example:
        >>> flow = real_nvp(channels=1, blocks=1, width=8)
        >>> flow.log_prob(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2])
        >>> flow.sample(2, size=(8, 12)).shape
        torch.Size([2, 1, 8, 12])
    """

    spec: dict[str, Any] | None = None
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: int,
        squeezes: int = 2,
        couplings: int = 6,
        blocks: int = 3,
        width: int = 32,
        alpha: float = 0.001,
        checkpoint: bool = False,
    ):
        super().__init__()
        self.channels, self.alpha, self.stride = channels, alpha, 2**squeezes
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        self.levels = nn.ModuleList(
            Level(4 * channels * 2**i, couplings, blocks, width, checkpoint)
            for i in range(squeezes)
        )

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The same as `encode`."""
        return self.encode(image)

    @torch.no_grad()
    def centre(self, image: Tensor) -> None:
        """Takes mean and deviation of each channel on the logit scale from images `[N, C, H, W]`.

        Weights then start near those that they will have; called once, before training.
        """
        x = self._logit((255 * image.to(self._dtype) + 0.5) / 256)
        self.mean.copy_(x.mean((0, 2, 3)).view(-1, 1, 1))
        self.std.copy_(x.std((0, 2, 3)).clamp_min(0.1).view(-1, 1, 1))

    def encode(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Latents, one tensor per level, and log |det ∂latents/∂image| `[N]`.

        The image `[N, C, H, W]` is taken as it is, without noise; `decode` gives it back.

        Raises:
            ValueError: If height or width is no multiple of `stride`.
        """
        self.latent_shapes(tuple(image.shape[-2:]))
        with torch.autocast(image.device.type, enabled=False):
            logit = self._logit(image.to(self._dtype))
            x = (logit - self.mean) / self.std
            # log of 1 / (p (1 − p)) for p = σ(logit), without its rounding at both ends.
            slope = F.softplus(logit) + F.softplus(-logit) + math.log(1 - 2 * self.alpha)
            log_det = (slope - self.std.log()).sum((1, 2, 3))
            latents = []
            for level in self.levels:
                x, change = level(squeeze(x))
                log_det = log_det + change
                if len(latents) < len(self.levels) - 1:
                    x, latent = x.chunk(2, dim=1)
                    latents.append(latent)
        return [*latents, x], log_det

    def decode(self, latents: list[Tensor]) -> Tensor:
        """The image `[N, C, H, W]` of the latents that `encode` gave: its exact inverse.

        Latents that come from no image may land a little outside 0…1; `sample` clips them.
        """
        with torch.autocast(latents[0].device.type, enabled=False):
            *outer, x = [latent.to(self._dtype) for latent in latents]
            for i, level in reversed([*enumerate(self.levels)]):
                assert isinstance(level, Level)
                x = x if i == len(outer) else torch.cat([x, outer[i]], dim=1)
                x = unsqueeze(level.inverse(x))
            image = (x * self.std + self.mean).sigmoid()
            return (image - self.alpha) / (1 - 2 * self.alpha)

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
        """Draws `n` images `[n, C, H, W]` of 256 grey levels in 0…1.

        Gradients reach the parameters as if the values were neither clipped nor rounded.

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
        return grey_levels(self.decode(latents))

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
        return [*shapes[:-1], (2 * shapes[-1][0], *shapes[-1][1:])]

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _logit(self, image: Tensor) -> Tensor:
        return (self.alpha + (1 - 2 * self.alpha) * image).logit()


class Level(nn.Module):
    """Couplings one after the other, before each of which the channels are mixed."""

    def __init__(self, channels: int, couplings: int, blocks: int, width: int, checkpoint: bool):
        super().__init__()
        self.checkpoint = checkpoint
        self.mixing = Mixing(couplings, channels)
        self.each = nn.ModuleList(Coupling(channels, blocks, width) for _ in range(couplings))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The coupled values, and the log-determinant `[N]`."""
        log_det = x.new_zeros(len(x)) + self.mixing.log_scale.sum() * x[0, 0].numel()
        for coupling, *mixing in zip(self.each, *self.mixing(), strict=True):
            x, change = self._run(coupling, x, *mixing)
            log_det = log_det + change
        return x, log_det

    def inverse(self, y: Tensor) -> Tensor:
        steps = [*zip(self.each, *self.mixing.inverse(), strict=True)]
        for coupling, *mixing in reversed(steps):
            assert isinstance(coupling, Coupling)
            y = self._run(coupling.inverse, y, *mixing)
        return y

    def _run(self, transform: Callable[..., Any], *inputs: Tensor) -> Any:
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(transform, *inputs, use_reentrant=False, preserve_rng_state=False)
        return transform(*inputs)


class Mixing(nn.Module):
    """The matrices that mix the channels before each of K couplings, and what is added.

    Each is lower × upper triangular, whose determinant and inverse cost nothing, after a swap of
    the halves of the channels: untrained, the couplings move these in turn and values stay as they
    are. All K are made together, since on a GPU the many small steps would take the most time.
    """

    def __init__(self, count: int, channels: int):
        super().__init__()
        self.swap = channels // 2
        self.triangles = nn.Parameter(torch.zeros(count, channels, channels))
        self.log_scale = nn.Parameter(torch.zeros(count, channels))
        self.shift = nn.Parameter(torch.zeros(count, channels))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Matrices `[K, C, C]` and what is added after them `[K, C]`."""
        lower, upper = self._triangles()
        return (lower @ upper).roll(self.swap, 2), self.shift

    def inverse(self) -> tuple[Tensor, Tensor]:
        """Matrices `[K, C, C]` and what is added after them `[K, C]`, to undo it."""
        lower, upper = self._triangles()
        unit = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
        first = torch.linalg.solve_triangular(lower, unit, upper=False, unitriangular=True)
        matrix = torch.linalg.solve_triangular(upper, first, upper=True).roll(self.swap, 1)
        return matrix, -(matrix @ self.shift[..., None])[..., 0]

    def _triangles(self) -> tuple[Tensor, Tensor]:
        scale = torch.diag_embed(self.log_scale.exp())
        unit = torch.diag_embed(torch.ones_like(self.log_scale))
        return self.triangles.tril(-1) + unit, self.triangles.triu(1) + scale


class Coupling(nn.Module):
    """y = x on the first half of the mixed channels and y = x · exp(s) + t on the other.

    A residual network gives s and t from the first half. It has no batch norm, so the inverse is
    exact in training too, and computing it twice (checkpointing) changes nothing.
    """

    def __init__(self, channels: int, blocks: int, width: int):
        super().__init__()
        kept = channels // 2
        last = nn.Conv2d(width, channels, 1)
        # Zero weights make the flow start as the identity, which trains from the first step.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
        self.network = nn.Sequential(
            nn.Conv2d(kept, width, 3, padding=1),
            *(Residual(width) for _ in range(blocks)),
            nn.ReLU(),
            last,
        )
        self.reach = nn.Parameter(torch.ones(kept, 1, 1))

    def forward(self, x: Tensor, matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The coupled values, and the log-determinant `[N]` without that of the matrix."""
        x, moved = F.conv2d(x, matrix[:, :, None, None], shift).chunk(2, dim=1)
        log_scale, change = self._affine(x)
        coupled = torch.cat([x, moved * log_scale.exp() + change], dim=1)
        return coupled, log_scale.sum((1, 2, 3))

    def inverse(self, y: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
        x, moved = y.chunk(2, dim=1)
        log_scale, change = self._affine(x)
        mixed = torch.cat([x, (moved - change) * (-log_scale).exp()], dim=1)
        return F.conv2d(mixed, matrix[:, :, None, None], shift)

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, change = self.network(x).chunk(2, dim=1)
        # tanh bounds the scale: one coupling cannot blow up what the next ones then undo.
        return self.reach * log_scale.tanh(), change


class Residual(nn.Module):
    """x plus two 3×3 convolutions of it, which start as nothing."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x.relu()).relu())


def grey_levels(image: Tensor) -> Tensor:
    """The image on its 256 grey levels in 0…1; gradients pass as if it had been left as it is.

    Example:
        >>> grey_levels(torch.tensor([-0.1, 0.0, 0.5, 1.2])) * 255
        tensor([  0.,   0., 128., 255.])
    """
    level = (256 * image.detach()).floor().clamp(0, 255) / 255
    return level + (image - image.detach())


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
    couplings: int = 6,
    blocks: int = 3,
    width: Count = 32,
    alpha: float = 0.001,
    checkpoint: bool = False,
) -> RealNVP:
    """A `RealNVP` that a saved spec can build again."""
    return RealNVP(channels, squeezes, couplings, blocks, width, alpha, checkpoint)
