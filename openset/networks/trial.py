"""One run of a network on one image, to learn which module does what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from openset.networks.watch import evaluating, listening, run

SIDES = (64, 224, 32, 28, 16, 8, 96, 128, 256, 299, 384, 512)
"""Sides of the images, in pixels, on which a network is tried until one fits it."""


@dataclass(frozen=True)
class Call:
    """One run of one module.

    Args:
        path: The module's path in the network.
        module: The module.
        output: What it gave, as an object; the network may have changed it since.
        values: What it gave, copied at once; only of linear maps.
    """

    path: str
    module: nn.Module
    output: Any
    values: Tensor | None = None


@dataclass(frozen=True)
class Trial:
    """Record of one run of a network on an image.

    Args:
        image: Two images `[2, C, H, W]`: an output without a row for each is no feature of them.
        output: What the network gave.
        calls: Runs of its modules, in the order in which they ended.
    """

    image: Tensor
    output: Any
    calls: tuple[Call, ...]


def tried(network: nn.Module, image: Tensor) -> Trial:
    """Runs the network on an image and notes each module that runs."""
    calls: list[Call] = []

    def note(path: str, module: nn.Module, _: object, output: Any) -> None:
        linear = is_linear(module) and isinstance(output, Tensor)
        calls.append(Call(path, module, output, copied(output) if linear else None))

    listeners = [(module, partial(note, path, module)) for path, module in seen_modules(network)]
    with torch.no_grad(), evaluating(network), listening(listeners):
        output = run(network, image)
    return Trial(image, output, tuple(calls))


def guessed(network: nn.Module) -> Trial | None:
    """A trial on the first made-up image that the network takes, or None if it takes none."""
    for image in _images(network):
        try:
            return tried(network, image)
        except Exception:  # Whatever another's network raises for an image of another size.
            continue
    return None


def copied(x: Tensor) -> Tensor:
    """A copy of a tensor, not quantised, which later changes by the network do not reach."""
    return x.dequantize() if x.is_quantized else x.clone()


def seen_modules(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Paths and modules that Python runs itself; those inside TorchScript are not."""
    found, scripted = [], []
    for path, module in network.named_modules():
        if any(path.startswith(outer) for outer in scripted):
            continue
        found.append((path, module))
        if isinstance(module, torch.jit.ScriptModule):
            scripted.append(f"{path}." if path else "")
    return found


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map or a convolution, quantised or not."""
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return isinstance(module, nn.Conv2d) or all(isinstance(size, int) for size in sizes)


@dataclass(frozen=True)
class Widths:
    """Numbers of channels that tell in which dimension a module's maps have them.

    Args:
        second: Widths of convolutions and batch norms, which act on the second dimension.
        last: Widths of linear maps and layer norms, which act on the last one.
    """

    second: set[int]
    last: set[int]

    def channels_first(self, x: Tensor) -> Tensor:
        """A map `[N, D, H, W]`, viewed so if it is `[N, H, W, D]`.

        It is taken for `[N, D, H, W]` unless only the last dimension has a known width.
        """
        last = x.dim() == 4 and x.shape[3] in self.last and x.shape[1] not in self.second
        return x.movedim(3, 1) if last else x


def widths(network: nn.Module, module: nn.Module) -> Widths:
    """The widths of a module's parts, or of the network's where the module has none."""
    second, last = _widths(module)
    return Widths(*((second, last) if second or last else _widths(network)))


def _widths(module: nn.Module) -> tuple[set[int], set[int]]:
    second, last = set(), set()
    for part in module.modules():
        if isinstance(part, nn.modules.conv._ConvNd):
            second.add(part.out_channels)
        elif isinstance(part, nn.modules.batchnorm._NormBase):
            second.add(part.num_features)
        elif isinstance(part, nn.GroupNorm):
            second.add(part.num_channels)
        elif isinstance(part, nn.Linear):
            last.add(part.out_features)
        elif type(part) is nn.LayerNorm:  # Those derived from it may act on the second.
            last.add(part.normalized_shape[-1])
    return second, last


def _images(network: nn.Module) -> Iterator[Tensor]:
    """Images that the network might take."""
    kinds = (x for x in network.parameters() if x.is_floating_point())
    like = next(kinds, torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    for shape in _shapes(network):
        image = torch.rand(2, *shape, generator=generator)
        yield image.to(like.device, like.dtype)


def _shapes(network: nn.Module) -> Iterator[tuple[int, int, int]]:
    """Channels, height and width by what the network's first layer takes."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            yield from ((module.in_channels, side, side) for side in SIDES)
            return
        if isinstance(module, nn.Linear):
            for channels in (1, 3):
                side = isqrt(module.in_features // channels)
                if channels * side**2 == module.in_features:
                    yield channels, side, side
            return
