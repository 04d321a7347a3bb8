"""A logit divided in two: likeness to a class, over likeness to any class (Generalized ODIN)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from openset.networks.base import described
from openset.networks.heads.widened import Widened

Similarity = Literal["cosine", "inner", "euclidean"]


class Cosine(nn.Module):
    """Cosine of features to a direction for each class, `[N, D]` → `[N, K]`."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.kaiming_normal_(torch.empty(classes, features)))

    def forward(self, x: Tensor) -> Tensor:
        return unit(x) @ unit(self.weight).T


class Euclidean(Cosine):
    """Minus the mean squared difference of features to a point for each class."""

    def forward(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.weight).square().mean(2)


class Inner(nn.Linear):
    """A plain linear map, started as the others are."""

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight)
        nn.init.zeros_(self.bias)


SIMILARITIES: dict[str, Callable[[int, int], nn.Module]] = {
    "cosine": Cosine,
    "inner": Inner,
    "euclidean": Euclidean,
}


class Decomposed(Widened):
    """A classifier with logits h / g: `similarity` gives h, and the sigmoid of `domain` is g.

    Args:
        network: As `Widened` takes it.
        similarity: h: "cosine" (DeConf-C), "inner" (DeConf-I) or "euclidean" (DeConf-E).
        head: As `Widened` takes it.
    """

    def __init__(
        self, network: nn.Module, similarity: Similarity = "cosine", head: str | None = None
    ):
        super().__init__(network, head)
        if similarity not in SIMILARITIES:
            raise ValueError(
                f"similarity must be one of {', '.join(get_args(Similarity))}; got {similarity!r}"
            )
        self.domain = nn.Sequential(nn.Linear(self.features, 1), nn.BatchNorm1d(1))
        self.similarity = SIMILARITIES[similarity](self.features, self.classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.network(image)
        # 1 / g in one step, which has no zero to divide by where the sigmoid underflows.
        return self.similarity(x) * (1 + (-self.domain(x)).exp())


@described
def decomposed(
    network: nn.Module, similarity: Similarity = "cosine", head: str | None = None
) -> Decomposed:
    """Divides each logit of a classifier by one shared guess that the image is known at all.

    Hsu et al., 2020, "Generalized ODIN", https://arxiv.org/abs/2002.11297: DeConf-C, -I and -E. A
    tap reads the likeness to each class as the layer `"similarity"`, and the logit of the guess as
    `"domain"`.

    Args:
        network: From images to logits `[N, K]`, trained or not; its last linear layer is replaced.
        similarity: "cosine", "inner" or "euclidean".
        head: Path of that last linear layer; None finds it.

    Example:
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> decomposed(inner, similarity="euclidean")(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """
    return Decomposed(network, similarity, head)


def unit(x: Tensor) -> Tensor:
    """Rows over their length, to which the published code's 1e-4 is added."""
    return x / (x.norm(dim=1, keepdim=True) + 1e-4)
