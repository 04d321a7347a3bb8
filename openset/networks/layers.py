"""The parts of any network: its head, its stages, the module that a layer's name stands for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openset.errors import LackingError, unknown_name
from openset.networks.anatomy import anatomy_of, last_linear
from openset.networks.trial import is_linear
from openset.networks.watch import bare

INNER = ("network", "model", "encoder", "backbone")
"""Names by which wrappers call the network inside them."""


def find_head(network: nn.Module, image: Tensor | None = None) -> str:
    """The path of the linear map whose output is the logits, found by running the network once.

    Where something follows it, the last linear map that ran with as many outputs as there are
    logits counts, or else the last that ran. Of a network that takes no made-up image it is the
    last that was defined.

    Args:
        network: From images to logits.
        image: Images to try it on; None makes one up.

    Returns:
        The path, or `NO_HEAD` where no linear map runs.
    """
    network = bare(network)
    anatomy = anatomy_of(network, image)
    if anatomy is not None:
        return anatomy.head
    return last_linear(item for item in network.named_modules() if is_linear(item[1]))


def find_stages(network: nn.Module) -> tuple[str, ...]:
    """Paths of a network's stages, early to late.

    Those that the network names count (`network.stages`, `layer1…layer4`, timm's `feature_info`),
    also those of a network inside it. Otherwise the network is run once on a made-up image: a stage
    is the last module before the resolution falls; where it never falls, stages are evenly spaced
    among the network's blocks. Empty where there is nothing of the kind.
    """
    network = bare(network)
    named = _named_stages(network)
    if named:
        return named
    anatomy = anatomy_of(network)
    return () if anatomy is None else anatomy.stages


def _named_stages(network: nn.Module) -> tuple[str, ...]:
    """The stages that a network, or the network inside it, names."""
    declared = getattr(network, "stages", None)
    if isinstance(declared, tuple):
        return declared
    children = dict(network.named_children())
    layers = tuple(name for name in ("layer1", "layer2", "layer3", "layer4") if name in children)
    info = getattr(network, "feature_info", None)
    if isinstance(info, list) and len(layers) < 4:
        return _described_stages(network, [stage["module"] for stage in info])
    if layers:
        return layers
    learning = [
        name for name, child in children.items() if next(child.parameters(), None) is not None
    ]
    inner = learning if len(learning) == 1 else [name for name in children if name in INNER]
    nested = {name: _named_stages(children[name]) for name in inner}
    return tuple(f"{name}.{path}" for name, paths in nested.items() for path in paths)


def _described_stages(network: nn.Module, paths: list[str]) -> tuple[str, ...]:
    """Those of timm's stages that are modules, unless one of them gives several maps at once."""
    there = dict(network.named_modules())
    found = tuple(dict.fromkeys(path for path in paths if path in there))
    anatomy = anatomy_of(network)
    return found if anatomy is None or anatomy.plain.issuperset(found) else ()


def resolve(network: nn.Module, layer: str) -> str:
    """The path in the network that a layer's name stands for.

    Raises:
        ValueError: For a name that is neither a path nor a stage.
    """
    paths = dict(network.named_modules())
    inside = layer
    while inside not in paths and inside.startswith(("_orig_mod.", "module.")):
        inside = inside.partition(".")[2]  # The path in a wrapper that was taken off.
    for path in (inside, f"network.{inside}"):  # Of the network behind a `normalize`, too.
        if path in paths and inside:
            return path
    stages = find_stages(network)
    aliases = {f"stage{i}": path for i, path in enumerate(stages, start=1)}
    if layer in aliases:
        return aliases[layer]
    if not stages and layer.removeprefix("stage").isdigit():
        raise LackingError(
            f"the network has no {layer}: its resolution never falls, and it has no row of like "
            "blocks; name the layers to read by their paths, as in network.named_modules()"
        )
    raise LackingError(unknown_name("layer", layer, {*filter(None, paths), *aliases}))


def is_channels_last(network: nn.Module) -> bool:
    """Whether convolutions hold their weights channels-last, and so add up in another order."""
    kernels = [x for x in network.parameters() if x.dim() == 4 and not x.is_contiguous()]
    return any(x.is_contiguous(memory_format=torch.channels_last) for x in kernels)
