"""Finds the head of a network, and stages where its resolution falls, by one run of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from openset.networks.outputs import first_logits
from openset.networks.trial import Call, Trial, guessed, tried, widths

FALLS = 0.6
"""Largest share of the pixels of a stage's first map at which a map begins a new stage."""

BLOCKS = 4
"""Stages of a network whose resolution never falls, evenly spaced among its blocks."""

NO_HEAD = ""
"""Stands in place of the head's path where no linear map runs."""


@dataclass(frozen=True)
class Anatomy:
    """Paths of the parts of a network, as a run has shown them.

    Args:
        head: The linear map that gives the logits, or the last one; `NO_HEAD` if there is none.
        stages: Last modules before the resolution falls, or spaced blocks; empty without either.
        plain: Modules that gave one tensor, as those that give several are no stages.
    """

    head: str
    stages: tuple[str, ...]
    plain: frozenset[str]


_known: WeakKeyDictionary[nn.Module, tuple[list, Anatomy | None]] = WeakKeyDictionary()


def anatomy_of(network: nn.Module, image: Tensor | None = None) -> Anatomy | None:
    """The anatomy of a network, which is run once for as long as its modules stay the same.

    Args:
        network: Any network.
        image: Images to try it on; None makes one up.

    Returns:
        None if no image was given and the network takes none of those that were made up.
    """
    modules = [(path, type(module)) for path, module in network.named_modules()]
    before, anatomy = _known.get(network, (None, None))
    if before != modules or (anatomy is None and image is not None):
        trial = (
            guessed(network)
            if image is None
            else tried(network, image[:1].repeat_interleave(2, dim=0))
        )
        anatomy = None if trial is None else _anatomy(network, trial)
        _known[network] = modules, anatomy
    return anatomy


def _anatomy(network: nn.Module, trial: Trial) -> Anatomy:
    calls = trial.calls
    plain = {call.path for call in calls if isinstance(call.output, Tensor)}
    stages = _where_resolution_falls(network, trial) or _spaced_blocks(
        network, {c.path for c in calls}
    )
    return Anatomy(_head(trial), stages, frozenset(plain))


def _head(trial: Trial) -> str:
    """The last linear map that gave the logits, or as many values, or any."""
    logits = first_logits(trial.output)
    ran = [(call, call.values) for call in trial.calls if call.values is not None]
    if logits is not None:
        same = [call.path for call, x in ran if equal(x, logits)]
        wide = [call.path for call, x in ran if x.dim() > 1 and x.shape[1] == logits.shape[1]]
        if same or wide:
            return (same or wide)[-1]
    return last_linear((call.path, call.module) for call, _ in ran)


def equal(x: Tensor, logits: Tensor) -> bool:
    """Whether two tensors hold the same values, in whatever shape."""
    return x.numel() == logits.numel() and torch.equal(x.reshape_as(logits).to(logits), logits)


def last_linear(maps: Iterable[tuple[str, nn.Module]]) -> str:
    """The path of the last linear map, or of the last 1×1 convolution where there is none."""
    pointwise, linear = [NO_HEAD], []
    for path, module in maps:
        if not isinstance(module, nn.Conv2d):
            linear.append(path)
        elif module.kernel_size == (1, 1):
            pointwise.append(path)
    return (linear or pointwise)[-1]


def _where_resolution_falls(network: nn.Module, trial: Trial) -> tuple[str, ...]:
    """The last outer module at each resolution, until the lowest is left for the last time."""
    areas = ((call.path, _area(network, call, trial.image)) for call in trial.calls if call.path)
    maps = [(path, area) for path, area in areas if area > 1]
    groups: list[list[int]] = []
    for area in sorted({area for _, area in maps}, reverse=True):
        if not groups or area <= FALLS * groups[-1][0]:
            groups.append([])
        groups[-1].append(area)
    if len(groups) < 2:
        return ()
    end = max(i for i, (_, area) in enumerate(maps) if area in groups[-1])
    found = ([path for path, area in maps[: end + 1] if area in group] for group in groups)
    return tuple(_outermost(paths) for paths in found if paths)


def _outermost(paths: list[str]) -> str:
    """The last of those that lie least deep, as a stage ends before the next one's first layer."""
    least = min(path.count(".") for path in paths)
    return [path for path in paths if path.count(".") == least][-1]


def _area(network: nn.Module, call: Call, image: Tensor) -> int:
    """Pixels of the feature map that a module gave; 0 for what is none, as a normalised image."""
    x = call.output
    if not isinstance(x, Tensor) or x.dim() != 4 or len(x) != len(image):
        return 0  # Windows of a map and tables of weights are as many as they like.
    shape = widths(network, call.module).channels_first(x).shape
    (height, width), (tall, wide) = shape[2:], image.shape[2:]
    distorted = abs(width - height * wide / tall) > 1  # As a list of windows is.
    whole = shape[2:] == image.shape[2:] and shape[1] <= image.shape[1]
    return 0 if distorted or whole else height * width


def _spaced_blocks(network: nn.Module, ran: set[str]) -> tuple[str, ...]:
    """Paths of evenly spaced blocks in the longest row of blocks of one type."""
    longest: list[str] = []
    for outer, module in network.named_modules():
        rows: dict[type, list[str]] = {}
        for name, child in module.named_children():
            path = f"{outer}.{name}" if outer else name
            if path in ran and next(child.children(), None) is not None:
                rows.setdefault(type(child), []).append(path)
        longest = max(longest, *rows.values(), key=len) if rows else longest
    if len(longest) < 2:
        return ()
    count = min(BLOCKS, len(longest))
    return tuple(longest[(i + 1) * len(longest) // count - 1] for i in range(count))
