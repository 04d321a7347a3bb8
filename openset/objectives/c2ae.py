"""A decoder that draws an image again only where it is told the image's own class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.heads.conditioned import Conditioned, conditioned
from openset.networks.watch import evaluating
from openset.objectives.base import Objective


class C2AE(Objective):
    """Trains a classifier, and beside it a decoder of its features that must be told the class.

    The decoder sees the last features z and a class. Told the image's own, it is to draw the image;
    told another, it is to draw another image of the batch, which is of that class:

        α · mean|x − G(z, y)| + (1 − α) · mean|x' − G(z, y')|

    It learns by Adam at 3e-4, and its gradient never reaches the classifier, which learns beside it
    by cross-entropy, or with `frozen` not at all, as in the paper's second stage. The paper's x' is
    an image of another class, a port's one of any class but y, whatever y' is: only an image of y'
    is something that z and y' can tell of. The detector `c2ae` reads the errors.

    Paper: Oza & Patel, *C2AE: Class Conditioned Auto-Encoder for Open-set Recognition*, 2019,
    https://arxiv.org/abs/1904.01198.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]`, trained or not; a copy of it
            gets the decoder.
        alpha: α, the weight of the image's own class, in 0…1.
        width: Maps of the layer before the decoder's last.
        frozen: Leave the classifier as it is given, which must then be trained.

    Example:
        >>> inner = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 3))
        >>> objective = C2AE(inner, width=4)
        >>> [who for who, _ in objective.step(torch.rand(5, 1, 4, 4), torch.arange(5) % 3)]
        ['decoder', 'network']
    """

    name = "c2ae"
    network: Conditioned  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self, network: nn.Module, alpha: float = 0.9, width: int = 32, frozen: bool = False
    ):
        super().__init__(conditioned(network, width=width))
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; it must lie in 0…1")
        self.alpha, self.width, self.frozen = alpha, width, frozen

    def learners(self) -> dict[str, nn.Module]:
        return {"network": self.network.classifier, "decoder": self.network.errors}

    def options(self) -> dict[str, dict[str, Any]]:
        adam = {"optimizer": "adam", "lr": 3e-4, "weight_decay": 0.0, "encoder_lr_factor": 1.0}
        return {"decoder": adam}

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield "decoder", self.decoding(image, label)
        if not self.frozen:
            yield "network", F.cross_entropy(self.network.classifier(image).float(), label)

    def decoding(self, image: Tensor, label: Tensor) -> Tensor:
        """The decoder's loss, on features as scoring sees them."""
        with torch.no_grad(), evaluating(self.network.classifier):
            z = self.network.encode(image)
        other = torch.randperm(len(label), device=label.device)
        told = torch.cat([label, label[other]])
        drawn = self.network.errors.draw(torch.cat([z, z]), told, image.shape[2:])
        target = torch.cat([image, image[other]])
        error = (target.float() - drawn.float()).abs().mean((1, 2, 3))
        match, non_match = error.chunk(2)
        differs = (label != label[other]).to(error)
        non_match = (non_match * differs).sum() / differs.sum().clamp(min=1)
        return self.alpha * match.mean() + (1 - self.alpha) * non_match
