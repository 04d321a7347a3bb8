"""From an image to its activations, through any network and without changing it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.activations import Activations
from openset.names import as_names, unknown_name


class Tap(nn.Module):
    """Reads a network's logits and layers in one forward pass.

    Layers are named by their path in the network, or as `"stage1"`, `"stage2"`, … in order where
    the network has stages (`find_stages`). Feature maps are averaged over space and token
    sequences over tokens, unless the network labels pixels: then they keep a grid, the logits'.
    The input of the head is recorded as `"penultimate"`, always for whole images; for pixels only
    if it is named, because there it takes much memory. Hooks live only inside `forward`, and the
    network runs in evaluation mode whatever mode it is in.

    Args:
        network: Any module from images `[N, C, H, W]` in 0…1 to logits `[N, K]` or `[N, K, H, W]`.
        layers: Names of the layers to record.
        head: Path of the last linear map; None finds the last `nn.Linear` (or 1×1 convolution of a
            network that labels pixels).

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> activations = Tap(network, layers=["1"])(torch.rand(5, 1, 2, 2))
        >>> {name: tuple(x.shape) for name, x in activations.features.items()}
        {'1': (5, 8), 'penultimate': (5, 8)}
    """

    def __init__(self, network: nn.Module, layers: Sequence[str] = (), head: str | None = None):
        super().__init__()
        self.network = network
        self.layers = tuple(layer for layer in as_names(layers) if layer != "logits")
        self.head = find_head(network) if head is None else head
        named = (layer for layer in self.layers if layer != "penultimate")
        self.paths = {layer: resolve(network, layer) for layer in named}
        if head is not None:
            resolve(network, head)

    def extra_repr(self) -> str:
        return f"layers={list(self.layers)}, head={self.head!r}"

    def forward(self, image: Tensor) -> Activations:
        if image.dtype == torch.uint8:
            raise ValueError("images are uint8, 0…255; divide them by 255 for floats in 0…1")
        with evaluating(self.network), self._watch() as seen:
            logits = self.network(image)
        if not isinstance(logits, Tensor) or logits.dim() not in (2, 4):
            raise ValueError(
                f"the network gave {_describe(logits)}; expected logits [N, K] or [N, K, H, W]"
            )
        features = {layer: reduce(seen[layer], logits) for layer in self.paths}
        if "penultimate" in seen and (logits.dim() == 2 or "penultimate" in self.layers):
            features["penultimate"] = reduce(seen["penultimate"], logits)
        return Activations(logits, features, head=self._linear(seen.get("head"), logits))

    @contextmanager
    def _watch(self) -> Iterator[dict[str, Tensor]]:
        """Collects the layers' outputs, and the head's input and output, while it is open."""
        seen: dict[str, Tensor] = {}
        # What timm calls networks such as Swin, whose maps are [N, H, W, D].
        channels_last = getattr(self.network, "output_fmt", None) == "NHWC"

        def record(name: str) -> Callable:
            def hook(module, args, output):
                x = output[0] if isinstance(output, tuple) else output
                last = channels_last and x.dim() == 4 and not isinstance(module, nn.Conv2d)
                seen[name] = x.permute(0, 3, 1, 2) if last else x

            return hook

        def record_head(module, args, output):
            seen["penultimate"], seen["head"] = args[0], output

        handles = [
            self.network.get_submodule(path).register_forward_hook(record(layer))
            for layer, path in self.paths.items()
        ]
        if self.head:
            head = self.network.get_submodule(self.head)
            handles.append(head.register_forward_hook(record_head))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _linear(self, output: Tensor | None, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """The head's weight and bias, if the head is linear and gives the logits themselves."""
        if output is None or output is not logits:
            return None
        head = self.network.get_submodule(self.head or "")
        wide = isinstance(head, nn.Conv2d) and head.kernel_size != (1, 1)
        if wide or not isinstance(head, nn.Linear | nn.Conv2d):
            return None
        weight = head.weight.detach().flatten(1)
        bias = torch.zeros_like(weight[:, 0]) if head.bias is None else head.bias.detach()
        return weight, bias


class Perturb(nn.Module):
    """Looks again at an image moved one sign step so that its score falls (ODIN, Mahalanobis).

    Known images move more than unknown ones, so the step widens the gap. The step for a zero
    gradient is as for a positive one.

    Args:
        extractor: From an image to activations, such as a `Tap`.
        score: From activations to one score per image, the thing to lower; usually a detector.
        epsilon: Length of the step in pixel units (0…1), before division by `std`.
        std: Each channel's standard deviation `[C]`; None for 1.
    """

    std: Tensor | None

    def __init__(
        self,
        extractor: nn.Module,
        score: Callable[[Activations], Tensor],
        epsilon: float,
        std: Tensor | None = None,
    ):
        super().__init__()
        self.extractor, self.epsilon = extractor, epsilon
        self.score = score
        self.register_buffer("std", std, persistent=False)

    def forward(self, image: Tensor) -> Activations:
        if self.epsilon == 0:
            return self.extractor(image)
        return self.both(image)[1]

    def both(self, image: Tensor) -> tuple[Activations, Activations]:
        """Activations of the image as it is, which the step needs anyway, and of the moved one."""
        plain, direction = self._looked(image)
        return plain, self.extractor(image.detach() - self.epsilon * direction)

    def direction(self, image: Tensor) -> Tensor:
        """The step of an ε of 1 that raises the score: its gradient's sign over `std`."""
        return self._looked(image)[1]

    def _looked(self, image: Tensor) -> tuple[Activations, Tensor]:
        with torch.enable_grad():
            image = image.detach().requires_grad_()
            plain = self.extractor(image)
            score = self.score(plain.beside(self.score))
            (gradient,) = torch.autograd.grad(score.sum(), image)
        sign = torch.where(gradient >= 0, 1.0, -1.0).to(image.dtype)
        step = sign if self.std is None else sign / self.std.to(sign).view(-1, 1, 1)
        return plain.map(Tensor.detach), step


def step(epsilon: float) -> float:
    """The length of a step, if it is finite and not negative: that would turn it round."""
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon must be at least 0, in pixel units (0…1); got {epsilon}")
    return epsilon


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


def reduce(x: Tensor, logits: Tensor) -> Tensor:
    """Averages a layer's output `[N, D, H, W]` or tokens `[N, T, D]` to `[N, D]`, or to a grid."""
    if logits.dim() == 4:
        return (
            x
            if x.shape[2:] == logits.shape[2:]
            else F.interpolate(x, logits.shape[2:], mode="bilinear")
        )
    if x.dim() == 4:
        return x.mean((2, 3))
    return x.mean(1) if x.dim() == 3 else x


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


def _describe(x: object) -> str:
    return f"a tensor {list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
