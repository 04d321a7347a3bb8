"""What detectors and densities share: a name, settings as they were given, state in buffers."""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Fitted(nn.Module):
    """A module whose constructor keeps its settings unchanged and whose `fit` fills buffers.

    Buffers get their shape from the data, so `load_state_dict` takes whatever shape comes.
    """

    name: ClassVar[str] = ""
    """The kebab-case name used on the command line; made from the class's name if left out."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    def keep(self, **learned: Tensor) -> None:
        """Stores learned tensors as buffers, in place of those of an earlier fit."""
        for key, value in learned.items():
            if key in self._buffers:
                self._buffers[key] = value.detach()
            else:
                self.register_buffer(key, value.detach())

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments by name, as they stand."""
        parameters = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in list(parameters)[1:]}

    def extra_repr(self) -> str:
        shown = {k: v for k, v in self.settings().items() if not isinstance(v, nn.Module)}
        return ", ".join(f"{key}={value!r}" for key, value in shown.items())

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        for key in list(state_dict):
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and "." not in name and name not in self._parameters:
                # A fitted shape is not known before loading, so the buffer takes the file's.
                self.keep(**{name: torch.empty_like(state_dict[key])})
        super()._load_from_state_dict(state_dict, prefix, *args)
