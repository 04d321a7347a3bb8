"""A sigmoid head beside the softmax head, on one widened output (BINC)."""

from __future__ import annotations

from torch import Tensor, nn

from openset.networks.base import described
from openset.networks.heads.widened import Widened


class BinaryHeads(Widened):
    """Two linear heads on one widened output: softmax logits, and a sigmoid logit per class.

    Args:
        network: As `Widened` takes it.
        dim: z, the size of the output that both heads read.
        head: As `Widened` takes it.
    """

    def __init__(self, network: nn.Module, dim: int = 64, head: str | None = None):
        super().__init__(network, head)
        self.widen = nn.Linear(self.features, dim)
        self.binary = nn.Linear(dim, self.classes)
        self.head = nn.Linear(dim, self.classes)

    def heads(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax logits and sigmoid logits of images, `[N, K]` each."""
        x = self.widen(self.network(image))
        return self.head(x), self.binary(x)

    def forward(self, image: Tensor) -> Tensor:
        return self.heads(image)[0]


@described
def binary_heads(network: nn.Module, dim: int = 64, head: str | None = None) -> BinaryHeads:
    """Puts a softmax head and a sigmoid head on a classifier (BINC).

    Sreeramdass & Sarawagi, "Out-of-distribution image detection with deep neural networks", §3.
    A tap reads the sigmoid logits as the layer `"binary"`.

    Args:
        network: From images to logits `[N, K]`, trained or not; its last linear layer is replaced.
        dim: z, the size of the output that both heads read.
        head: Path of that last linear layer; None finds it.

    Example:
        >>> import torch
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> softmax, sigmoid = binary_heads(inner).heads(torch.rand(5, 1, 2, 2))
        >>> softmax.shape, sigmoid.shape
        (torch.Size([5, 3]), torch.Size([5, 3]))
    """
    return BinaryHeads(network, dim, head)
