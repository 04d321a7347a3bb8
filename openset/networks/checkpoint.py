"""Weights from a file, without running code that the file may hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openset.files import check_ordinary, read_tensors


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Loads a checkpoint into a network, strictly, and returns the network.

    Takes safetensors, or what `torch.save` wrote of a state_dict; that may sit under
    `"state_dict"` or `"model"`, and its keys may begin with `"module."` or `"_orig_mod."` as
    DataParallel and torch.compile write them. For `timm:NAME` and its like, it may be the inner
    network's. A pickle with anything but tensors and plain values in it is refused, not run.

    Args:
        network: The network that the weights were trained in.
        path: A `.safetensors` file, or any other name for what `torch.save` wrote.

    Raises:
        ValueError: If the file cannot be read, or does not fit the network; names the keys.
    """
    own = network.state_dict()
    state = _fit_prefix(_unwrap(_read(Path(path))), own)
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
    check_ordinary(path)
    if not path.is_file():
        raise ValueError(f"no weights at {path}; give a .safetensors or state_dict file")
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged pickle raises whatever its reader stumbles on.
        raise ValueError(
            f"cannot read weights from {path}: it is damaged, or holds more than tensors and plain "
            f"values and is not run for safety; save network.state_dict() as safetensors ({error})"
        ) from error


def _unwrap(state: Any) -> dict[str, Tensor]:
    """The state_dict itself, out of what training scripts put around it."""
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(x, Tensor) for key, x in state.items()
    ):
        raise ValueError("the file holds no state_dict; save network.state_dict()")
    return dict(state)


def _fit_prefix(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the network's own keys, whatever stood around it when they were saved."""
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in state) and not _any_start(own, prefix):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    wraps = all(key.startswith(("normalize.", "network.")) for key in own)
    if wraps and not _any_start(state, "network."):
        outer = {key: value for key, value in own.items() if key.startswith("normalize.")}
        return outer | {f"network.{key}": value for key, value in state.items()}
    return state


def _any_start(keys: Iterable[str], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in keys)


def _some(keys: list[str], kind: str) -> str:
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"{len(keys)} {kind}" + (f" ({', '.join(keys[:5])}{more})" if keys else "")
