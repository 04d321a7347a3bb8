"""A classifier that must also be able to redraw its images."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from openset.networks.heads.ladder_codes import LadderCodes, ladder_codes
from openset.objectives.base import Objective


class CROSR(Objective):
    """Trains a classifier whose features keep what it takes to draw the image again.

    Narrow side branches lead from every stage back to the image. The loss is cross-entropy plus the
    weight times the mean squared error of the image, in units of the network's normalisation. The
    detector `crosr` measures distances on logits and codes side by side.

    Paper: Yoshihashi et al., *Classification-Reconstruction Learning for Open-Set Recognition*,
    2019, https://arxiv.org/abs/1812.04246. The published code ends the way back in a ReLU, which
    cannot draw what is darker than the mean; here it is a sigmoid in 0…1.

    Args:
        network: A network of openset in stages, from images `[N, C, H, W]` in 0…1 to logits
            `[N, K]`, trained or not; the side branches are put on it.
        weight: The weight of the reconstruction.
        code: Channels of each side branch.

    Example:
        >>> import torch
        >>> from openset.networks import cnn
        >>> objective = CROSR(cnn(classes=3, channels=1, widths=(4, 8)))
        >>> objective.logits(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """

    name = "crosr"
    network: LadderCodes  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, network: nn.Module, weight: float = 1.0, code: int = 32):
        super().__init__(ladder_codes(network, code))
        self.weight, self.code = weight, code

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        logits, maps = self.network.encode(image)
        again = self.network.reconstruct(maps, image.shape[2:])
        normalize = self.network.normalize
        error = F.mse_loss(normalize(again.float()), normalize(image.float()))
        yield "network", F.cross_entropy(logits, label) + self.weight * error
