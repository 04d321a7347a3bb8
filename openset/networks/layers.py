"""The parts of any network: its head, its stages, the output of one layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from openset.errors import unknown_name


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Runs a network in evaluation mode and restores each module's own mode afterwards."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Reached(Exception):
    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output


def output_of(network: nn.Module, path: str, image: Tensor) -> Tensor:
    """The output of the module at a path; what the network runs after it is left out."""

    def stop(module: nn.Module, inputs: object, output: Tensor) -> None:
        raise _Reached(output)

    handle = network.get_submodule(path).register_forward_hook(stop)
    try:
        network(image)
    except _Reached as reached:
        return reached.output
    finally:
        handle.remove()
    raise ValueError(f"the network did not run its module {path!r}")


def find_head(network: nn.Module) -> str | None:
    """The path of the last linear layer or 1×1 convolution, or None.

    In a `segmentation_head`, as segmentation-models-pytorch calls it, any convolution counts.
    """
    head = None
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and "segmentation_head." in path:
            return path
        pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
        if isinstance(module, nn.Linear) or (pointwise and not _has_linear(network)):
            head = path
    return head


def _has_linear(network: nn.Module) -> bool:
    return any(isinstance(module, nn.Linear) for module in network.modules())


def find_stages(network: nn.Module) -> tuple[str, ...]:
    """Paths of a network's stages, early to late.

    Read from `network.stages`, from timm's `feature_info`, or from torchvision's `layer1…layer4`;
    empty where there are none.
    """
    declared = getattr(network, "stages", None)
    if isinstance(declared, tuple):
        return declared
    children = dict(network.named_children())
    layers = tuple(name for name in ("layer1", "layer2", "layer3", "layer4") if name in children)
    info = getattr(network, "feature_info", None)
    if isinstance(info, list) and len(layers) < 4:
        paths = dict(network.named_modules())
        return tuple(dict.fromkeys(s["module"] for s in info if s["module"] in paths))
    if layers or len(children) == 0:
        return layers
    inner = ("network", "model", "encoder", "backbone")
    nested = {name: find_stages(child) for name, child in children.items() if name in inner}
    return tuple(f"{name}.{path}" for name, paths in nested.items() for path in paths)


def resolve(network: nn.Module, layer: str) -> str:
    """The path in the network that a layer's name stands for."""
    paths = dict(network.named_modules())
    if layer in paths and layer:
        return layer
    stages = find_stages(network)
    aliases = {f"stage{i}": path for i, path in enumerate(stages, start=1)}
    if layer in aliases:
        return aliases[layer]
    raise ValueError(unknown_name("layer", layer, {*filter(None, paths), *aliases}))


def is_channels_last(network: nn.Module) -> bool:
    """Whether convolutions hold their weights channels-last, and so add up in another order."""
    kernels = [x for x in network.parameters() if x.dim() == 4 and not x.is_contiguous()]
    return any(x.is_contiguous(memory_format=torch.channels_last) for x in kernels)
