"""Calls a network in evaluation mode, with hooks that hear no other thread's calls."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Listener = Callable[[Any, Any], Any]
"""Called with a module's first input and its output, each time the module runs.

What it returns, if it returns something, takes the output's place.
"""

_lock = Lock()
"""Held while modes and hooks change, for microseconds; never while a network runs."""

_held: dict[nn.Module, int] = {}
"""Modules that were in training mode, and the calls that keep them in evaluation mode."""

_call: ContextVar[object] = ContextVar("call", default=None)
"""The call that is heard in this thread."""


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Runs a network in evaluation mode and restores each module's own mode afterwards.

    Nothing is written where the network is in evaluation mode already. Otherwise the first of
    several calls at once sets the mode and the last one restores it.
    """
    with _lock:
        held = [module for module in _modules(network) if module.training or module in _held]
        for module in held:
            _held[module] = _held.get(module, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _lock:
            for module in held:
                _held[module] -= 1
                if not _held[module]:
                    del _held[module]
                    module.training = True


def _modules(network: nn.Module) -> list[nn.Module]:
    """A network and all that it holds, at a third of the time that `network.modules()` takes."""
    found = [network]
    for module in found:  # Which grows meanwhile; a module that stands twice counts twice.
        found += [part for part in module._modules.values() if part is not None]
    return found


@contextmanager
def listening(listeners: Iterable[tuple[nn.Module, Listener]]) -> Iterator[None]:
    """Lets listeners hear of modules that this thread runs meanwhile, and of no other thread's.

    No call hears what another one, opened inside it, hears.
    """
    call = object()
    hooks = [(module, object(), _only_in(call, listener)) for module, listener in listeners]
    token = _call.set(call)
    try:
        with _lock:
            for module, key, hook in hooks:
                own = _Hooks(module._forward_hooks, module._forward_hooks_with_kwargs, {})
                _heard.setdefault(module, own).ours[key] = hook
                _hang(module)
        yield
    finally:
        with _lock:
            for module, key, _ in hooks:
                del _heard[module].ours[key]
                _hang(module)
        _call.reset(token)


class _Hooks(NamedTuple):
    """The hooks that a module had by itself, with torch's flags for them, and those of calls."""

    own: dict
    flags: dict
    ours: dict[object, Callable[..., Any]]


_heard: dict[nn.Module, _Hooks] = {}
"""Modules that some call listens to."""


def _hang(module: nn.Module) -> None:
    """Hangs a module's hooks as a new table: torch may be reading the old one in another thread."""
    own, flags, ours = _heard[module]
    if ours:
        module.__dict__["_forward_hooks_with_kwargs"] = {**flags, **dict.fromkeys(ours, True)}
        module.__dict__["_forward_hooks"] = OrderedDict({**own, **ours})
    else:  # The very tables to which the handles of others belong.
        module.__dict__["_forward_hooks"] = own
        module.__dict__["_forward_hooks_with_kwargs"] = flags
        del _heard[module]


def _only_in(call: object, listener: Listener) -> Callable[..., Any]:
    def hook(module: nn.Module, *told: Any) -> Any:
        # Of a hook that another thread puts on or takes off just now, torch may leave out kwargs.
        if _call.get() is call:
            args, kwargs, output = told
            return listener(next(iter((*args, *kwargs.values())), None), output)
        return None

    return hook


def run(network: nn.Module, image: Tensor) -> Any:
    """The network's output, without what `network.compile()` made of it, where no hook is heard."""
    compiled = getattr(network, "_compiled_call_impl", None) is not None
    return network._call_impl(image) if compiled else network(image)


def bare(network: nn.Module) -> nn.Module:
    """The network inside `torch.compile`, `DataParallel` and `DistributedDataParallel`.

    Hooks inside a compiled network are not heard reliably, and a state saved with a wrapper would
    not fit the network alone.
    """
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(network, parallel):
            network = network.module
        elif "_orig_mod" in network._modules:  # By name, as importing torch._dynamo takes seconds.
            network = network.get_submodule("_orig_mod")
        else:
            return network


class _Reached(Exception):
    """What is run after a module need not be run."""


def output_of(network: nn.Module, path: str, image: Tensor) -> Tensor:
    """The first output of the module at a path; what the network runs after it is left out."""

    seen: list[Tensor] = []

    def stop(_: object, output: Tensor) -> None:
        exporting = torch.compiler.is_exporting()
        seen.append(output.clone() if exporting else output)
        if not exporting:  # An export loses its way where a module is left halfway.
            raise _Reached

    with suppress(_Reached), listening([(network.get_submodule(path), stop)]):
        run(network, image)
    if not seen:
        raise ValueError(f"the network did not run its module {path!r}")
    return seen[0]
