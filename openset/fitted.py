"""Base of detectors and densities: a name, settings as they were given, state in buffers."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from openset.spec import check_bounds


class NotFittedError(ValueError, AttributeError):
    """A detector or density was used before `fit`."""


class Fitted(nn.Module):
    """A module whose constructor keeps its settings unchanged and whose `fit` fills buffers.

    A subclass declares what it learns by annotations (`mean: Tensor`) and stores it by `keep`.
    Buffers get their shape from the data, so `load_state_dict` takes whatever shape comes.
    """

    kind: ClassVar[str] = ""
    """The family that it belongs to, such as "detector"; set by the family's base class."""

    name: ClassVar[str] = ""
    """The kebab-case name used on the command line; made from the class's name if left out."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            setattr(cls, "__init__", within_bounds(cls.__dict__["__init__"]))  # noqa: B010
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    def keep(self, **learned: Tensor) -> None:
        """Stores learned tensors as buffers, in place of those of an earlier fit.

        They lie in memory as a file gives them back, so that a loaded model rounds as this one.
        """
        for key, value in learned.items():
            value = value.detach().contiguous()
            if key in self._buffers:
                self._buffers[key] = value
            else:
                self.register_buffer(key, value)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            if any(name in vars(base).get("__annotations__", {}) for base in type(self).__mro__):
                raise NotFittedError(
                    f"{type(self).__name__} is not fitted; call fit first"
                ) from error
            raise

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments by name, as they stand."""
        parameters = inspect.signature(type(self)).parameters.values()
        names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return {name: getattr(self, name) for name in names}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings, under the name by which scikit-learn asks for them."""
        return self.settings()

    def set_params(self, **settings: Any) -> Self:
        """Changes settings, as scikit-learn does, and forgets what was learned."""
        type(self).__init__(self, **{**self.settings(), **settings})
        return self

    def __sklearn_clone__(self) -> Self:
        # scikit-learn's own copies would keep what the detectors of a fusion have learned.
        return type(self)(**{key: _unfitted(value) for key, value in self.settings().items()})

    def spec(self) -> dict[str, Any]:
        """Kind, name and settings as plain JSON values, by which a saved model is built again."""
        own = type(self).__module__.startswith("openset.")
        name = self.name if own else f"{type(self).__module__}:{type(self).__name__}"
        settings = {key: _plain(value) for key, value in self.settings().items()}
        return {"kind": self.kind, "name": name, "settings": settings}

    def extra_repr(self) -> str:
        shown = {k: v for k, v in self.settings().items() if not isinstance(v, nn.Module)}
        return ", ".join(f"{key}={value!r}" for key, value in shown.items())

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for key in list(state_dict):
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and "." not in name and name not in self._parameters:
                # A fitted shape is not known before loading, so the buffer takes the file's.
                # It stays where it lies: a checkpoint is read on the CPU, a training goes on a GPU.
                own = self._buffers.get(name)
                device = None if own is None else own.device
                self.keep(**{name: torch.empty_like(state_dict[key], device=device)})
        super()._load_from_state_dict(state_dict, prefix, *args)


def within_bounds(made: Callable[..., None]) -> Callable[..., None]:
    """A constructor that refuses numbers beyond the bounds of their annotations."""

    @functools.wraps(made)
    def construct(self: Fitted, *given: Any, **named: Any) -> None:
        check_bounds(f"{self.kind} {self.name}".strip(), made, (self, *given), named)
        made(self, *given, **named)

    return construct


def _plain(value: Any) -> Any:
    """A setting as JSON values; a nested module as its spec."""
    if isinstance(value, Fitted):
        return value.spec()
    if isinstance(value, list | tuple | nn.ModuleList):
        return [_plain(item) for item in value]
    if isinstance(value, nn.Module):
        return {"kind": "network", "spec": getattr(value, "spec", None)}
    return value


def _unfitted(value: Any) -> Any:
    """A setting without anything that was learned."""
    if isinstance(value, nn.ModuleList):
        return [_unfitted(item) for item in value]
    return value.__sklearn_clone__() if isinstance(value, Fitted) else value


def by_name(namespace: dict[str, Any], family: type[Any]) -> dict[str, Any]:
    """The classes of a family in a module's namespace, by their kebab-case names."""
    members = [value for value in namespace.values() if isinstance(value, type)]
    return {c.name: c for c in members if issubclass(c, family) and c is not family}
