"""Some of a network's classes in place of all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from openset.networks.layers import find_head


def select(network: nn.Module, outputs: Sequence[int], head: str | None = None) -> nn.Module:
    """Keeps some of a network's classes, in a given order, by the rows of its head.

    A network of ImageNet's 1,000 classes thus becomes one of the ten that the data have.

    Args:
        network: A network whose logits are what its last linear map gives; it is changed.
        outputs: Which of its outputs to keep, counted from 0.
        head: Path of that linear map, or 1×1 convolution; None finds it.

    Raises:
        ValueError: For an output that does not exist or stands there twice, and for a network
            without such a head.

    Example:
        >>> network = select(nn.Sequential(nn.Flatten(), nn.Linear(4, 9)), [7, 2])
        >>> network(torch.zeros(1, 1, 2, 2)).shape
        torch.Size([1, 2])
    """
    inner = getattr(network, "spec", None)
    path = head or find_head(network)
    last = network.get_submodule(path) if path else None
    if not isinstance(last, nn.Linear | nn.Conv2d):
        raise ValueError(f"a {type(network).__name__} has no linear head whose outputs to choose")
    check_outputs(outputs, len(last.weight))
    rows = torch.tensor(list(outputs))
    with torch.no_grad():
        last.weight = nn.Parameter(last.weight[rows])
        if last.bias is not None:
            last.bias = nn.Parameter(last.bias[rows])
    size = "out_features" if isinstance(last, nn.Linear) else "out_channels"
    setattr(last, size, len(rows))
    if inner is not None:
        arguments = {"network": inner, "outputs": list(outputs), "head": path}
        network.spec = {"name": "select", **arguments}  # pyright: ignore[reportArgumentType]
    return network


def check_outputs(outputs: Sequence[int], count: int) -> None:
    """Raises for outputs that a network of `count` classes has not, or that are named twice."""
    wrong = [one for one in outputs if not 0 <= one < count]
    wrong += [one for one in outputs if outputs.count(one) > 1]
    if wrong or len(outputs) < 2:
        raise ValueError(
            f"outputs is {list(outputs)[:20]}; name at least two of 0…{count - 1}, each once"
        )
