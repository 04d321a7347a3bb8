"""A look at pixels beside their neighbours: class maps that a conditional random field smooths."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.extractors.base import Extractor
from openset.extractors.tap import Tap


class Smooth(Extractor):
    """Adds the class probabilities of pixels after a fully connected conditional random field.

    `features["smoothed"]` is log Q `[N, K, H, W]`, by mean field: Q_i ∝ p_i · exp(w · Q̄_i) again
    and again, where Q̄_i is the mean of Q over all other pixels j, weighted by a Gaussian of their
    distance to i. Of whole images, which have no neighbours, it is the log of p.

    Args:
        tap: From an image to activations; they are passed on.
        sigma: Standard deviation of the Gaussian in pixels of the image; it is cut off at three.
        weight: w, how much neighbours count.
        iterations: Rounds of the mean field.

    Example:
        >>> logits = torch.zeros(1, 2, 9, 9)
        >>> logits[:, 0], logits[:, 1, 4, 4] = 1.0, 2.0  # One pixel is of another class.
        >>> seen = Smooth(Tap(torch.nn.Identity()), sigma=2)(logits)
        >>> seen.features["smoothed"].argmax(1).sum().item()
        0
    """

    looks_again = True

    def __init__(self, tap: Tap, sigma: float = 10.0, weight: float = 10.0, iterations: int = 10):
        super().__init__()
        self.tap, self.sigma, self.weight, self.iterations = tap, sigma, weight, iterations

    @property
    def key(self) -> Hashable:
        return self.tap.key, "smooth", self.sigma, self.weight, self.iterations

    def forward(self, image: Tensor) -> Activations:
        seen = self.tap(image)
        smoothed = seen.logits.float().log_softmax(1)
        if seen.grid:
            smoothed = self.smoothed(smoothed)
        return replace(seen, features={**seen.features, "smoothed": smoothed})

    def smoothed(self, log_p: Tensor) -> Tensor:
        """log Q of log-probabilities, `[N, K, H, W]` both."""
        mass = neighbours(torch.ones_like(log_p[:1, :1]), self.sigma).clamp_min(1e-12)
        log_q = log_p
        for _ in range(self.iterations):
            mean = neighbours(log_q.exp(), self.sigma) / mass
            log_q = (log_p + self.weight * mean).log_softmax(1)
        return log_q


def neighbours(x: Tensor, sigma: float) -> Tensor:
    """Sums over all other pixels j of exp(−|i − j|² / 2σ²) x_j, up to 3σ along each axis."""
    reach = math.ceil(3 * sigma)
    along = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = (-(along / sigma).square() / 2).exp()
    flat = x.flatten(0, 1)[:, None]
    flat = F.conv2d(flat, kernel.view(1, 1, -1, 1), padding=(reach, 0))
    flat = F.conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, reach))
    return flat.view_as(x) - x
