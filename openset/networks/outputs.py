"""The logits among whatever a network puts out, and a choice of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openset.networks.layers import find_head

NAMES = ("logits", "out")
"""Under which names dictionaries and objects of other libraries hold their logits."""


def logits_of(output: Any) -> Tensor:
    """The logits in what a network put out.

    Args:
        output: A tensor; a dictionary, or an object such as Hugging Face's `ModelOutput`, with
            `logits` or `out`; or several things, of which the first that can be logits counts.

    Returns:
        `[N, K]`, or `[N, K, H, W]` of a network that labels pixels.

    Raises:
        ValueError: If there are none.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> logits_of({"loss": torch.zeros(()), "logits": x}) is x, logits_of((x, None)) is x
        (True, True)
    """
    found = next((x for x in _tensors(output) if x.dim() in (2, 4)), None)
    if found is None:
        raise ValueError(
            f"the network gave {_described(output)}; expected logits [N, K] or [N, K, H, W]"
        )
    return found


def _tensors(output: Any) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    held = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
    named = [held[name] for name in NAMES if name in held]
    several = output if isinstance(output, tuple | list) else held.values()
    return [x for x in (named or several) if isinstance(x, Tensor)]


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {list(output.shape)}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with {', '.join(map(str, output)) or 'nothing'}"
    return f"a {type(output).__name__}"


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
