"""Weights from a file, without running code that the file may hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Loads a checkpoint into a network, strictly, and returns the network.

    Takes safetensors, or what `torch.save` wrote of a state_dict; that may sit under
    `"state_dict"` or `"model"`, and its keys may begin with `"module."` as DataParallel writes
    them. A pickle with anything but tensors and plain values in it is refused, not run.

    Raises:
        ValueError: If the file cannot be read, or does not fit the network; names the keys.
    """
    state = _unwrap(_read(Path(path)))
    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit this {type(network).__name__}: "
            f"{_some(missing, 'missing')}; {_some(unexpected, 'unexpected')}; "
            "build the network that the weights were trained in"
        )
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise ValueError(
                f"{path} does not fit this {type(network).__name__}: {key} is "
                f"{list(value.shape)}, the network's {list(own[key].shape)}; "
                "check the number of classes and channels"
            )
    network.load_state_dict(state)
    return network


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"no weights at {path}; give a .safetensors or state_dict file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"cannot read weights from {path}: it is damaged, or holds more than tensors and plain "
            f"values and is not run for safety; save network.state_dict() as safetensors ({error})"
        ) from error


def _unwrap(state: Any) -> dict[str, Tensor]:
    """The state_dict itself, out of what training scripts put around it."""
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise ValueError("the file holds no state_dict; save network.state_dict()")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _some(keys: list[str], kind: str) -> str:
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"{len(keys)} {kind}" + (f" ({', '.join(keys[:5])}{more})" if keys else "")
