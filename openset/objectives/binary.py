"""A yes-or-no answer per class instead of a choice between classes: BIN, BINC."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.heads.binary import BinaryHeads, binary_heads
from openset.objectives.base import Objective
from openset.objectives.mmce import mmce


class BIN(Objective):
    """Trains one sigmoid per class, so that an image may look like none of them.

    The network's logits become logits of independent yes-or-no answers. The loss is
    Σ_c −t_c log σ(p_c) − ζ (1 − t_c) log(1 − σ(p_c)), averaged over images; the paper's eq. 3
    prints it without logarithm and sign.

    Paper: Sreeramdass & Sarawagi, *Out-of-Distribution Image Detection with Deep Neural Networks*,
    §3; close to Padhy et al., *Revisiting One-vs-All Classifiers*, 2020,
    https://arxiv.org/abs/2007.05134.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]`, trained or not.
        negative_weight: ζ, the weight of the terms of the classes that an image is not of.

    Example:
        >>> objective = BIN(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
        >>> [name for name, loss in objective.step(torch.rand(5, 1, 2, 2), torch.arange(5) % 3)]
        ['network']
    """

    def __init__(self, network: nn.Module, negative_weight: float = 0.05):
        super().__init__(network)
        self.negative_weight = negative_weight

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield "network", binary_cross_entropy(self.logits(image), label, self.negative_weight)


class BINC(Objective):
    """Trains a softmax head for the label and calibrated sigmoids for the score, side by side.

    The loss is cross-entropy of the one, plus that of `BIN` and λ times the mean over classes of
    the calibration error `mmce` of the other. Each class's sigmoid is a binary classifier: it
    answers yes where p > ½, with probability max(p, 1 − p).

    Paper: Sreeramdass & Sarawagi, *Out-of-Distribution Image Detection with Deep Neural Networks*,
    §3, eq. 4, with the calibration of Kumar et al., 2018,
    https://proceedings.mlr.press/v80/kumar18a.html.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]`, trained or not; a copy of it
            gets the two heads.
        negative_weight: ζ, as in `BIN`.
        calibration_weight: λ.
        dim: z, the size of the output that both heads read.

    Example:
        >>> objective = BINC(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), dim=8)
        >>> objective.logits(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """

    network: BinaryHeads  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        network: nn.Module,
        negative_weight: float = 0.05,
        calibration_weight: float = 0.5,
        dim: int = 64,
    ):
        super().__init__(binary_heads(network, dim))
        self.negative_weight, self.calibration_weight = negative_weight, calibration_weight
        self.dim = dim

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        softmax, binary = self.network.heads(image)
        loss = F.cross_entropy(softmax, label)
        loss = loss + binary_cross_entropy(binary, label, self.negative_weight)
        yield "network", loss + self.calibration_weight * calibration_error(binary, label).mean()


def binary_cross_entropy(logits: Tensor, label: Tensor, negative_weight: float) -> Tensor:
    """Weighted loss of K binary classifiers, summed over them and averaged over N images.

    Args:
        logits: `[N, K]`.
        label: Class `[N]`, in 0…K−1.
        negative_weight: ζ, the weight of the terms where a classifier should answer no.
    """
    # BCE with logits knows pos_weight alone, so the loss is scaled to put ζ on the other side.
    target = F.one_hot(label, logits.shape[1]).to(logits.dtype)
    weight = target + negative_weight * (1 - target)
    loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return loss / len(logits)


def calibration_error(logits: Tensor, label: Tensor) -> Tensor:
    """`mmce` of each of K binary classifiers, `[K]`, from logits `[N, K]` and classes `[N]`."""
    # Half precision would round the confidences of a trained network to 1.
    probability = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
    target = F.one_hot(label, logits.shape[1]).bool()
    confidence = torch.maximum(probability, 1 - probability)
    return mmce(confidence, (probability > 0.5) == target)
