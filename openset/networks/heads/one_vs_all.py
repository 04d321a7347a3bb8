"""A yes-or-no answer for each class beside the choice between classes (Ensemble OVA, OVNNI)."""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args

from torch import Tensor, nn

from openset.networks.base import described
from openset.networks.heads.ensemble import Members, restarted
from openset.networks.heads.widened import Widened
from openset.networks.layers import find_stages

Trunk = Literal["shared", "separate"]


class SharedTrunk(Widened):
    """Two heads on the last features: `head` chooses a class, `binary` answers for each.

    Args:
        network: As `Widened` takes it; it may label pixels.
        head: As `Widened` takes it.
    """

    takes_pixels = True

    def __init__(self, network: nn.Module, head: str | None = None):
        super().__init__(network, head)
        self.binary = self.map(self.classes)
        self.head = self.map(self.classes)

    def heads(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the choice and of the answers, `[N, K, *grid]` each."""
        x = self.network(image)
        return self.head(x), self.binary(x)

    def forward(self, image: Tensor) -> Tensor:
        return self.heads(image)[0]


class SeparateTrunks(nn.Module):
    """A network that chooses a class, beside one for each class that answers yes or no.

    Args:
        network: From images to logits `[N, K, *grid]`.
        head: As `Widened` takes it.
    """

    spec: dict[str, Any] | None = None

    def __init__(self, network: nn.Module, head: str | None = None):
        super().__init__()
        like = SharedTrunk(network, head)
        answers = [restarted(network) for _ in range(like.classes)]
        for answer in answers:
            answer.set_submodule(like.place, like.map(1))
        self.network, self.binary = copy.deepcopy(network), Members(answers)
        self.stages = tuple(f"network.{stage}" for stage in find_stages(network))

    @property
    def normalize(self) -> nn.Module | None:
        """The normalisation of the network that chooses, if it has one."""
        return getattr(self.network, "normalize", None)

    def heads(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As `SharedTrunk.heads`; on a GPU the networks that answer run as one batched program."""
        answers = self.binary.together(image)
        return self.network(image), answers.squeeze(2).transpose(0, 1)

    def forward(self, image: Tensor) -> Tensor:
        self.binary(image)  # Not used here: a tap reads it.
        return self.network(image)


@described
def one_vs_all(
    network: nn.Module, trunk: Trunk = "shared", head: str | None = None
) -> SharedTrunk | SeparateTrunks:
    """Puts a yes-or-no answer for each class beside a classifier of images or pixels.

    Franchi et al., 2020, "One Versus all for deep Neural Network Incertitude (OVNNI)
    quantification", https://arxiv.org/abs/2006.00954. A tap reads the answers' logits as the layer
    `"binary"`.

    Args:
        network: From images to logits `[N, K]` or `[N, K, H, W]`, trained or not; its last linear
            layer or 1×1 convolution is replaced.
        trunk: "shared" for two heads on one network, or "separate" for K further networks, as in
            the paper, at K + 1 times the cost of scoring.
        head: Path of that last layer; None finds it.

    Example:
        >>> import torch
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> choice, answers = one_vs_all(inner).heads(torch.rand(5, 1, 2, 2))
        >>> choice.shape, answers.shape
        (torch.Size([5, 3]), torch.Size([5, 3]))
    """
    if trunk not in get_args(Trunk):
        raise ValueError(f"trunk must be one of {', '.join(get_args(Trunk))}; got {trunk!r}")
    return (SharedTrunk if trunk == "shared" else SeparateTrunks)(network, head)
