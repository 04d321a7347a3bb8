"""Weights from a file, without running code that the file may hold."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from openset.files import check_ordinary, read_tensors

WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")
"""Names under which training scripts put the weights, beside epochs and settings."""

COUNTER = "num_batches_tracked"
"""The end of a key that old checkpoints lack; evaluation does not read it."""


class OtherOutputs(ValueError):
    """The weights of a network with another number of classes, and otherwise the same.

    Args:
        message: What does not fit.
        outputs: The number of classes that the weights are for.
    """

    def __init__(self, message: str, outputs: int):
        super().__init__(message)
        self.outputs = outputs


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Loads a checkpoint into a network, strictly, and returns the network.

    Takes safetensors, what `torch.save` wrote of a state_dict, and checkpoints of Lightning and of
    training scripts, which hold it beside other things, as `"state_dict"`, `"model_state_dict"` or
    `"model"`. Its keys may have a prefix, as `"model."`, `"module."` (DataParallel) or
    `"_orig_mod."` (torch.compile); what the file holds beside that prefix, such as a loss's
    weights, is left out. For `timm:NAME` and its like, it may be the inner network's. No code that
    a file names is run: of foreign objects in it nothing is made.

    Args:
        network: The network that the weights were trained in.
        path: A `.safetensors` file, or any other name for what `torch.save` wrote.

    Raises:
        OtherOutputs: A ValueError, if only the number of classes differs.
        ValueError: If the file cannot be read, or does not fit the network; names the keys.
    """
    own = network.state_dict()
    state = _unwrap(_read(Path(path)))
    translated = getattr(network, "translated", None)  # Names of another library.
    state = _under_own_keys(state if translated is None else translated(state), own)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit this {type(network).__name__}: "
            f"{_some(missing, 'missing')}; {_some(unexpected, 'unexpected')}; "
            "build the network that the weights were trained in"
        )
    differ = [key for key, value in state.items() if value.shape != own[key].shape]
    if differ:
        _refuse_shapes(f"{path} does not fit this {type(network).__name__}", differ, state, own)
    network.load_state_dict(state)
    return network


def _refuse_shapes(
    problem: str, differ: list[str], state: dict[str, Tensor], own: dict[str, Tensor]
) -> NoReturn:
    key = differ[0]
    shapes = f"{problem}: {key} is {list(state[key].shape)}, the network's {list(own[key].shape)}"
    sizes = {tuple(x[key].shape[:1]) for key in differ for x in (state, own)}
    inner = all(state[key].shape[1:] == own[key].shape[1:] for key in differ)
    if len({key.rpartition(".")[0] for key in differ}) == 1 and inner and len(sizes) == 2:
        there, here = len(state[key]), len(own[key])
        raise OtherOutputs(
            f"{shapes}: it was trained on {there} classes, not {here}; build the network for "
            f"{there} (classes={there}), or import it with --outputs and the {here} to keep",
            there,
        )
    raise ValueError(f"{shapes}; check the number of classes and channels")


def _read(path: Path) -> Any:
    check_ordinary(path)
    if not path.is_file():
        raise ValueError(f"no weights at {path}; give a .safetensors or state_dict file")
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        with torch.serialization.safe_globals(_stand_ins(path)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged pickle raises whatever its reader stumbles on.
        raise ValueError(
            f"cannot read weights from {path}: it is damaged, or holds more than tensors and plain "
            f"values and is not run for safety; save network.state_dict() as safetensors ({error})"
        ) from error


class _Forgetful:
    """Stands for an object of numpy, such as the best accuracy, and holds nothing."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _Emptied:
    """Stands for a class that is not imported, as of a trainer's settings; makes a plain dict."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()  # The one kind of object that torch fills by key and by attribute.


def _stand_ins(path: Path) -> list[Any]:
    """Harmless classes in place of those that a file names beside tensors and plain values."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # Not a file of today's `torch.save`; its reader says what is wrong.
        return []
    kinds = {name: _Forgetful if name.startswith("numpy.") else _Emptied for name in named}
    return [(type(kind.__name__, (kind,), {}), name) for name, kind in kinds.items()]


def _unwrap(state: Any) -> dict[str, Tensor]:
    """The state_dict itself, out of what training scripts put around it."""
    while isinstance(state, Mapping) and not all(isinstance(x, Tensor) for x in state.values()):
        inner = (state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping))
        state = next(inner, None)
    named = isinstance(state, Mapping) and all(isinstance(key, str) for key in state)
    if not named or not len(state):
        raise ValueError(
            "the file holds no state_dict, or a whole network, which is code and is not run; "
            "save network.state_dict()"
        )
    return dict(state)


def _under_own_keys(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the network's own keys, whatever stood around it when they were saved.

    A network behind `normalize` may be filled without it, from what its library saved.
    """
    best, fits = state, -1
    for inside, body in _bodies(own):
        prefix = _prefix(state, body)
        found = {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}
        if len(found.keys() & body.keys()) > fits:
            counters = {k: x for k, x in body.items() if k.endswith(COUNTER) and k not in found}
            outer = {key: x for key, x in own.items() if not key.startswith(inside)}
            best = outer | {inside + key: x for key, x in (counters | found).items()}
            fits = len(found.keys() & body.keys())
    return best


def _bodies(own: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The network's weights, then those of the network inside it, with the path to them."""
    yield "", own
    if own and all(key.startswith(("normalize.", "network.")) for key in own):
        path = "network."
        yield path, {k.removeprefix(path): x for k, x in own.items() if k.startswith(path)}


def _prefix(state: Iterable[str], own: Container[str]) -> str:
    """Finds the prefix behind which most keys of a file are the network's own."""
    fits: Counter[str] = Counter()
    for key in state:
        for i, character in enumerate(f".{key}"):
            if character == "." and key[i:] in own:
                fits[key[:i]] += 1
    return max(fits, key=lambda prefix: (fits[prefix], -len(prefix)), default="")


def _some(keys: list[str], kind: str) -> str:
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"{len(keys)} {kind}" + (f" ({', '.join(keys[:5])}{more})" if keys else "")
