"""PixMix: images mixed with pictures of structure and with changed copies of themselves."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 4
"""The most mixtures on top of one another."""


STRENGTH = 3.0
"""β: the larger, the more of the image itself is left in a mixture."""


def pictures(images: Tensor, generator: torch.Generator) -> Tensor:
    """Clouds of structure on all scales: noise whose amplitude falls with the frequency."""
    height, width = images.shape[2:]
    noise = torch.randn(images.shape, generator=generator, device=generator.device)
    steepness = 1 + torch.rand(len(images), 1, 1, 1, generator=generator, device=generator.device)
    noise, steepness = noise.to(images.device), steepness.to(images.device)
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    frequency = (rows.square() + columns.square()).sqrt().clamp_min(1 / max(height, width))
    spectrum = torch.fft.rfft2(noise) / frequency.to(images.device) ** steepness
    cloud = torch.fft.irfft2(spectrum, s=(height, width))
    low, high = cloud.amin((2, 3), keepdim=True), cloud.amax((2, 3), keepdim=True)
    return (cloud - low) / (high - low).clamp_min(1e-12)


def mixed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Adds or multiplies each image, up to four times, with a cloud or a solarised copy.

    Hendrycks et al., 2022, https://arxiv.org/abs/2112.05135, whose mixing pictures are a collection
    of fractals; these are drawn anew for each batch.

    Example:
        >>> mixed(torch.rand(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """

    def draw() -> Tensor:
        numbers = torch.rand(len(images), 1, 1, 1, generator=generator, device=generator.device)
        return numbers.to(images.device)

    def solarised() -> Tensor:
        return torch.where(images > draw(), 1 - images, images)

    found = torch.where(draw() < 0.5, solarised(), images)
    rounds, clouds = (draw() * (ROUNDS + 1)).floor(), pictures(images, generator)
    for i in range(ROUNDS):
        other = torch.where(draw() < 0.5, solarised(), clouds.roll(i, 0))
        own, its = draw() ** (1 / STRENGTH), 1 - draw() ** (1 / STRENGTH)
        added = ((2 * found - 1) * own + (2 * other - 1) * its + 1) / 2
        multiplied = (2 * found).clamp_min(1e-6) ** own * (2 * other).clamp_min(1e-6) ** its / 2
        both = torch.where(draw() < 0.5, added, multiplied).clamp(0, 1)
        found = torch.where(i < rounds, both, found)
    return found
