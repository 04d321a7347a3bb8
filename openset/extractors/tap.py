"""From an image to its activations, through any network and without changing it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.activations import Activations
from openset.extractors.base import Extractor
from openset.networks.anatomy import equal
from openset.networks.device import dtype_of
from openset.networks.layers import find_head, resolve
from openset.networks.outputs import enlarged, logits_of
from openset.networks.trial import copied, seen_modules, widths
from openset.networks.watch import Listener, bare, evaluating, listening, run
from openset.spec import as_names


class Tap(Extractor):
    """Reads a network's logits and layers in one forward pass.

    Layers are named by their path in the network, or as `"stage1"`, `"stage2"`, … in order
    (`find_stages`). Feature maps are averaged over space and token sequences over tokens, unless
    the network labels pixels: then they are brought to the image's grid, as are logits on a coarser
    one, bilinearly. Recorded is what a layer gave,
    whatever the network does with it later; of a layer that runs several times, or that gives a
    list, all outputs side by side. The input of the head is recorded as `"penultimate"`, always for
    whole images; for pixels only if it is named, because there it takes much memory.

    The network runs in evaluation mode whatever mode it is in, hooks live only inside `forward`,
    and any number of threads may look at once. What `torch.compile` or `DataParallel` has wrapped
    is read without the wrapper.

    Args:
        network: Any module from images `[N, C, H, W]` in 0…1 to logits `[N, K]` or `[N, K, H, W]`,
            or to what `logits_of` finds them in.
        layers: Names of the layers to record, or their paths in the network by name.
        head: Path of the last linear map; None finds the one that gives the logits at the first
            look, by one run of the network more, on one image. `NO_HEAD` says that there is none.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> activations = Tap(network, layers=["1"])(torch.rand(5, 1, 2, 2))
        >>> {name: tuple(x.shape) for name, x in activations.features.items()}
        {'1': (5, 8), 'penultimate': (5, 8)}
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str] | Mapping[str, str] = (),
        head: str | None = None,
    ):
        super().__init__()
        self.network = bare(network)
        self.layers = tuple(layer for layer in as_names(layers) if layer != "logits")
        named = layers if isinstance(layers, Mapping) else {name: name for name in self.layers}
        if named.get("penultimate", "penultimate") != "penultimate":
            raise ValueError(f"penultimate is {named['penultimate']!r}; name the head instead")
        self.paths = {
            layer: resolve(self.network, named[layer])
            for layer in self.layers
            if layer != "penultimate"
        }
        self._named_head = self._head = resolve(self.network, head) if head else head
        self._check_heard()
        self._widths = {
            layer: widths(self.network, self.network.get_submodule(path))
            for layer, path in self.paths.items()
        }
        # Learned at the first look.
        self._labels_pixels: bool | None = None
        self._head_is_linear: bool | None = None

    @property
    def head(self) -> str:
        """The path of the linear map whose input is `"penultimate"`, or `NO_HEAD`."""
        return find_head(self.network) if self._head is None else self._head

    @property
    def key(self) -> Hashable:
        return self.network, tuple(self.paths.items()), self.layers, self._named_head

    def settings(self) -> dict[str, Any]:
        """The arguments beside the network that make this tap again, with what was found."""
        layers = {name: self.paths.get(name, name) for name in self.layers}
        return {"layers": layers, "head": self.head}

    def extra_repr(self) -> str:
        paths = [self.paths.get(name, name) for name in self.layers]
        shown = (n if n == p else f"{n}={p}" for n, p in zip(self.layers, paths, strict=True))
        return f"layers=[{', '.join(shown)}], head={self.head!r}"

    def forward(self, image: Tensor) -> Activations:
        image = self._checked(image)
        if self._head is None and len(image):
            self._head = find_head(self.network, image)
        seen: dict[str, list[Tensor]] = {layer: [] for layer in self.paths}
        ends: list[_End] = []
        with evaluating(self.network), listening(self._listeners(seen, ends)):
            given = logits_of(run(self.network, image))
        logits = enlarged(given, image)
        self._labels_pixels = logits.dim() == 4
        features = {layer: _side_by_side(layer, parts, logits) for layer, parts in seen.items()}
        if not ends:
            return Activations(logits, features)
        end = next((end for end in ends if end.output is given), ends[-1])
        if self._keeps_penultimate:
            features["penultimate"] = reduce(end.input, logits)
        return Activations(logits, features, head=self._weights(end, given))

    def _checked(self, image: Tensor) -> Tensor:
        """The images, in the precision of the network's parameters."""
        if not isinstance(image, Tensor):
            raise ValueError(f"images are {_describe(image)}; give a tensor [N, C, H, W] in 0…1")
        if not image.is_floating_point():
            raise ValueError(
                f"images are {image.dtype}, not floats in 0…1; "
                "if they hold 0…255, divide them by 255"
            )
        return image.to(dtype_of(self.network))

    def _check_heard(self) -> None:
        """Raises for layers inside TorchScript, which runs them out of Python's sight."""
        read = {*self.paths.values(), *filter(None, [self._head])}
        heard = {path for path, _ in seen_modules(self.network)}
        scripted = isinstance(self.network, torch.jit.ScriptModule)
        if not read <= heard or (scripted and self.layers):
            raise ValueError(
                f"the network is TorchScript, inside which no layer such as {self.layers[0]!r} can "
                "be read; give the network as it was before torch.jit, or a detector of logits"
            )

    @property
    def _keeps_penultimate(self) -> bool:
        """Whether the head's input is recorded; of a network that labels pixels, only if named."""
        return not self._labels_pixels or "penultimate" in self.layers

    def _listeners(
        self, seen: dict[str, list[Tensor]], ends: list[_End]
    ) -> list[tuple[nn.Module, Listener]]:
        """The modules to listen to, with what is then recorded."""

        def record(layer: str, _: object, output: Any) -> None:
            for x in output if isinstance(output, list) else [_first(layer, output)]:
                seen[layer].append(self._copied(self._widths[layer].channels_first(x)))

        def record_head(x: Tensor, output: Tensor) -> None:
            # A linear map acts on the last dimension, so a map that goes into it ends with it.
            maps_last = x.dim() == 4 and not isinstance(head, nn.Conv2d)
            kept = self._copied(x.movedim(3, 1) if maps_last else x)
            unsure = self._head_is_linear is None
            ends.append(_End(kept, output, copied(output) if unsure else output))

        found: list[tuple[nn.Module, Listener]] = [
            (self.network.get_submodule(path), partial(record, layer))
            for layer, path in self.paths.items()
        ]
        head = self.network.get_submodule(self._head) if self._head else None
        return found if head is None else [*found, (head, record_head)]

    def _copied(self, x: Tensor) -> Tensor:
        """Copies a layer's output; averages it at once if the network is known to label images."""
        return pooled(x) if self._labels_pixels is False else copied(x)

    def _weights(self, end: _End, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """The head's weight and bias, if it is linear and gives the logits, at any size."""
        head = self.network.get_submodule(self.head)
        if not _maps_rows(head):
            return None
        if self._head_is_linear is None and not torch.compiler.is_exporting() and len(logits):
            # Enlarging a map bilinearly and mapping its channels linearly may change places.
            self._head_is_linear = any(
                equal(values, logits) for values in (end.values, reduce(end.values, logits))
            )
        if not (end.output is logits if self._head_is_linear is None else self._head_is_linear):
            return None
        weight = head.weight.detach().flatten(1)
        bias = torch.zeros_like(weight[:, 0]) if head.bias is None else head.bias.detach()
        return weight, bias


@dataclass(frozen=True)
class _End:
    """One run of the head: its input and its output, and the values that the output had then."""

    input: Tensor
    output: Tensor
    values: Tensor


def _maps_rows(head: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    """Whether a module multiplies each image's or each pixel's features by its weight."""
    if isinstance(head, nn.Conv2d):
        plain = head.kernel_size == head.stride == (1, 1) and head.groups == 1
        return plain and type(head).forward is nn.Conv2d.forward
    return isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward


def _first(layer: str, output: Any) -> Tensor:
    """A layer's output, or the first tensor of a tuple of outputs."""
    x = output[0] if isinstance(output, tuple) else output
    if not isinstance(x, Tensor):
        raise ValueError(
            f"the layer {layer!r} gave {_describe(x)}, not a tensor; name a module inside it"
        )
    return x


def _side_by_side(layer: str, parts: list[Tensor], logits: Tensor) -> Tensor:
    """Joins the outputs of all runs of a layer, on the logits' grid."""
    if not parts:
        raise ValueError(
            f"the network did not run its layer {layer!r}; name one that it runs, and give a "
            "network with compiled parts as it was before torch.compile"
        )
    on_grid = [reduce(x, logits) for x in parts]
    return on_grid[0] if len(parts) == 1 else torch.cat(on_grid, dim=1)


def reduce(x: Tensor, logits: Tensor) -> Tensor:
    """Averages a layer's output `[N, D, H, W]` or tokens `[N, T, D]` to `[N, D]`, or to a grid."""
    if logits.dim() == 2:
        return pooled(x)
    if x.dim() != 4:
        raise ValueError(
            f"a layer gave {list(x.shape)}, which has no place on the grid of pixels; name one "
            "that gives maps [N, D, H, W]"
        )
    grid = logits.shape[2:]
    return x if x.shape[2:] == grid else F.interpolate(x, grid, mode="bilinear")


def pooled(x: Tensor) -> Tensor:
    """The average over space or tokens, `[N, D]`; a copy where there is nothing to average."""
    if x.is_quantized:
        x = x.dequantize()
    if x.dim() == 4:
        return x.mean((2, 3))
    return x.mean(1) if x.dim() == 3 else x.clone()


def _describe(x: object) -> str:
    return f"a tensor {list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
