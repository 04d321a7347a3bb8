"""From an image to its activations, through any network and without changing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.activations import Activations
from openset.networks.device import dtype_of
from openset.networks.layers import evaluating, find_head, resolve
from openset.networks.outputs import logits_of
from openset.spec import as_names


class Tap(nn.Module):
    """Reads a network's logits and layers in one forward pass.

    Layers are named by their path in the network, or as `"stage1"`, `"stage2"`, … in order where
    the network has stages (`find_stages`). Feature maps are averaged over space and token
    sequences over tokens, unless the network labels pixels: then they keep a grid, the logits'.
    The input of the head is recorded as `"penultimate"`, always for whole images; for pixels only
    if it is named, because there it takes much memory. Hooks live only inside `forward`, and the
    network runs in evaluation mode whatever mode it is in.

    Args:
        network: Any module from images `[N, C, H, W]` in 0…1 to logits `[N, K]` or `[N, K, H, W]`,
            or to what `logits_of` finds them in.
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
            logits = logits_of(self.network(image.to(dtype_of(self.network))))
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
