"""A second output that says how sure the first one is (learned confidence)."""

from __future__ import annotations

from torch import Tensor, nn

from openset.networks.base import described
from openset.networks.heads.widened import Widened


class Confident(Widened):
    """A classifier beside one unit on the same features, the logit of its confidence.

    Args:
        network: As `Widened` takes it.
        head: As `Widened` takes it.
    """

    def __init__(self, network: nn.Module, head: str | None = None):
        super().__init__(network, head)
        self.confidence = nn.Linear(self.features, 1)
        self.head = nn.Linear(self.features, self.classes)

    def heads(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[N, K]`, and the logit of the confidence `[N]`."""
        x = self.network(image)
        return self.head(x), self.confidence(x).squeeze(1)

    def forward(self, image: Tensor) -> Tensor:
        return self.heads(image)[0]


@described
def confident(network: nn.Module, head: str | None = None) -> Confident:
    """Puts a learned confidence beside a classifier's head.

    DeVries & Taylor, 2018, "Learning Confidence for Out-of-Distribution Detection in Neural
    Networks", https://arxiv.org/abs/1802.04865. A tap reads its logit as the layer `"confidence"`.

    Args:
        network: From images to logits `[N, K]`, trained or not; its last linear layer is replaced.
        head: Path of that last linear layer; None finds it.

    Example:
        >>> import torch
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> logits, confidence = confident(inner).heads(torch.rand(5, 1, 2, 2))
        >>> logits.shape, confidence.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """
    return Confident(network, head)
