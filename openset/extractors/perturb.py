"""A second look at an image moved one step along a score's gradient."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor

from openset.activations import Activations, concatenate
from openset.extractors.base import Extractor
from openset.extractors.extract import finite

AT_ONCE = 2**20
"""Pixels whose way through the network is kept for a gradient at once: an EfficientNet-Lite0 keeps
50 MB for each image of 224×224."""


class Perturb(Extractor):
    """Looks again at an image moved one sign step so that its score falls (ODIN, Mahalanobis).

    Known images move more than unknown ones, so the step widens the gap. The step for a zero
    gradient is as for a positive one.

    Args:
        extractor: From an image to activations, such as a `Tap`.
        score: From activations to one score per image, the thing to lower; usually a detector.
        epsilon: Length of the step in pixel units (0…1), before division by `std`.
        std: Each channel's standard deviation `[C]`; None for 1.
    """

    looks_again = moves_image = True
    std: Tensor | None

    def __init__(
        self,
        extractor: Extractor,
        score: Callable[[Activations], Tensor],
        epsilon: float,
        std: Tensor | None = None,
    ):
        super().__init__()
        self.extractor, self.epsilon = extractor, epsilon
        self.score = score
        self.register_buffer("std", std, persistent=False)

    def forward(self, image: Tensor) -> Activations:
        if self.epsilon == 0:
            return self.extractor(image)
        return self.both(image)[1]

    def both(self, image: Tensor) -> tuple[Activations, Activations]:
        """Activations of the image as it is, which the step needs anyway, and of the moved one."""
        plain, direction = self._looked(image)
        return plain, self.extractor(image.detach() - self.epsilon * direction)

    def direction(self, image: Tensor) -> Tensor:
        """The step of an ε of 1 that raises the score: its gradient's sign over `std`."""
        return self._looked(image)[1]

    def _looked(self, image: Tensor) -> tuple[Activations, Tensor]:
        if any(x.is_inference() for x in chain(self.parameters(), self.buffers())):
            raise ValueError(
                "this network or detector was made in torch.inference_mode, so no gradient can "
                "be taken to step along; make it outside torch.inference_mode, or take epsilon=0"
            )
        plain, steps = zip(*map(self._piece, image.split(pieces(image))), strict=True)
        return concatenate(plain), torch.cat(steps)

    def _piece(self, image: Tensor) -> tuple[Activations, Tensor]:
        # A caller may be in inference mode, where nothing is kept for a gradient.
        with torch.inference_mode(False), torch.enable_grad():
            image = image.detach().clone().requires_grad_()
            plain = self.extractor(image)
            finite(plain.logits.detach(), "the network's logits")
            score = self.score(plain.beside(self.score))
            gradient = _gradient(score.sum(), image)
        sign = torch.where(gradient >= 0, 1.0, -1.0).to(image.dtype)
        step = sign if self.std is None else sign / self.std.to(sign).view(-1, 1, 1)
        return plain.map(Tensor.detach), step


def pieces(image: Tensor) -> int:
    """Images in a piece of a batch, at most `AT_ONCE` pixels of which keep all for a gradient."""
    return max(1, AT_ONCE // max(1, image[0, 0].numel())) if len(image) else 1


def _gradient(score: Tensor, image: Tensor) -> Tensor:
    try:
        return torch.autograd.grad(score, image)[0]
    except RuntimeError as error:
        raise ValueError(
            "the score has no gradient with respect to the image, along which this detector "
            f"steps ({error}); take a network in floating point, or epsilon=0"
        ) from error


def step(epsilon: float) -> float:
    """Checks the length of a step, which lies in 0…1; a negative one would turn it round."""
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon must lie in 0…1, in pixel units; got {epsilon}")
    return epsilon
