"""The base of other heads: a classifier whose own head is taken off."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from torch import nn

from openset.networks.layers import find_head, find_stages


class Widened(nn.Module):
    """A network whose head is taken off, so that another head can read its last features.

    The network given is left as it is; this holds a copy.

    Args:
        network: From images to logits `[N, K]`; its last linear layer is the head. A subclass may
            take networks that label pixels too, whose head is a 1×1 convolution.
        head: Path of the head; None finds it.
    """

    takes_pixels: ClassVar[bool] = False
    """Whether the head has a twin for networks that label pixels."""

    spec: dict[str, Any] | None = None

    def __init__(self, network: nn.Module, head: str | None = None):
        super().__init__()
        path = find_head(network) if head is None else head
        last = network.get_submodule(path) if path else None
        taken = (nn.Linear, nn.Conv2d) if self.takes_pixels else nn.Linear
        if not isinstance(last, taken) or getattr(last, "kernel_size", (1, 1)) != (1, 1):
            pixels = " or 1×1 convolution" if self.takes_pixels else ""
            raise ValueError(
                f"the head of {type(network).__name__} is {path!r}, which is no nn.Linear{pixels}; "
                "name its last linear layer: head='…'"
            )
        self.labels_pixels = isinstance(last, nn.Conv2d)
        self.classes, self.features = last.weight.shape[:2]
        self.network = copy.deepcopy(network)
        self.place = path or ""
        self.network.set_submodule(self.place, nn.Identity())
        self.stages = tuple(f"network.{stage}" for stage in find_stages(network))

    @property
    def normalize(self) -> nn.Module | None:
        """The inner network's normalisation, if it has one."""
        return getattr(self.network, "normalize", None)

    def map(self, outputs: int, bias: bool = True) -> nn.Module:
        """A linear map of the features; a 1×1 convolution where pixels are labelled."""
        if self.labels_pixels:
            return nn.Conv2d(self.features, outputs, 1, bias=bias)
        return nn.Linear(self.features, outputs, bias=bias)
