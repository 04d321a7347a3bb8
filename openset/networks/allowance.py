"""A bound on what may be made for a file: a description of a few bytes can ask for any size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch.utils._python_dispatch import TorchDispatchMode

from openset.files import header

SPARE = 2**20
"""Values that may be made beyond twice those of the file."""

CALLS = 4000
"""Calls of torch that may be made beyond forty for each tensor of the file."""

SIDE = 2**16
"""The largest whole number that any network's description may hold, however small its file."""

FROM_NUMBERS = ("arange", "eye", "linspace", "randperm")
"""Operators that make as many values as a number among their arguments says."""


class Allowance(TorchDispatchMode):
    """Refuses, while it is open, to make more or larger tensors than a file can fill.

    Each call of torch is looked at before it takes memory, so whatever a description asks for,
    of networks of openset or of other libraries, ends in one sentence. Any other error of a
    constructor becomes one too: it got values that it was not made for.

    Args:
        tensors: Number of tensors in the file.
        values: Number of values in them.
        what: Name of what is made, for the error.
    """

    def __init__(self, tensors: int, values: int, what: str):
        super().__init__()
        self.values, self.what = values, what
        self.calls_left = CALLS + 40 * tensors
        self.values_left = SPARE + 2 * values

    @classmethod
    def of(cls, weights: Path, what: str) -> Self:
        """The allowance of a `.safetensors` file, counted from its header."""
        shapes = [shape for _, shape in header(weights).values()]
        return cls(len(shapes), sum(map(math.prod, shapes)), what)

    def check_sizes(self, spec: Any) -> None:
        """Raises for a number in a network's description that is too large, or a list too long."""
        parts = spec.values() if isinstance(spec, Mapping) else spec
        if len(parts) > self.calls_left:
            self._refuse("asks for more than its file can fill")
        for part in parts:
            if isinstance(part, Mapping | list | tuple):
                self.check_sizes(part)
            elif isinstance(part, int) and abs(part) > max(SIDE, self.values):
                self._refuse(f"holds the size {part:.6g}, more than its file can fill")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls_left -= 1
        self.values_left -= _asked(func, args)
        if self.calls_left < 0 or self.values_left < 0:
            self._refuse("asks for more than its file can fill")
        return func(*args, **(kwargs or {}))

    def _refuse(self, problem: str) -> None:
        raise ValueError(f"{self.what} {problem}, which has {self.values} values")

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, Exception) and not isinstance(error, ValueError):
            raise ValueError(
                f"{self.what} does not fit: {type(error).__name__}: {error}"
            ) from error


def _asked(func: Any, args: tuple[Any, ...]) -> int:
    """The most values that a call can make by its sizes; 0 for one that has none."""
    sizes = [math.prod(x) for x in args if isinstance(x, list) and all(type(n) is int for n in x)]
    if func.__name__.startswith(FROM_NUMBERS):
        sizes += [int(x) for x in args if isinstance(x, int | float)]
    return max([0, *sizes])
