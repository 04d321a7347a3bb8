"""Whether what a tap records is what the layer gave, and what it does with wrapped networks."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

import openset
from openset import OpenSet, Tap
from openset.detectors import build

from .cases import Case, Skipped
from .material import Material, small_network, three_classes, trained


def cases(material: Material, count: int) -> Iterator[Case]:
    """Layers, heads, stages and wrappers."""
    for name, attempt in LAYERS.items():
        yield Case("taps: layers", name, attempt)
    for name, network in HEADS.items():
        yield Case("taps: head", name, partial(right_head, network))
        yield Case("taps: head named", name, partial(right_head, network, True), refusable=False)
    yield Case("taps: head", "none", no_head)
    for detector in READS:
        for name, wrap in WRAPPERS.items():
            given = {"refusable": not name.startswith("Sequential"), "seconds": 60.0}
            attempt = partial(wrapped, detector, wrap)
            yield Case("taps: wrapped networks", f"{name}, {detector}", attempt, **given)
        attempt = partial(own_network, detector)
        yield Case("taps: stages", f"own, {detector}", attempt, refusable=False, seconds=60)
    for name in WRAPPERS:
        attempt = partial(into_the_bare, name)
        yield Case("taps: saved wrapper, bare network", name, attempt, seconds=60)
    for name in ZOO:
        given = {"refusable": False, "seconds": 300.0}
        yield Case("taps: stages", name, partial(of_the_zoo, name), **given)


class Twice(nn.Module):
    """One module that runs twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.act(self.conv(x))).mean((2, 3)))


class Adds(nn.Module):
    """Changes a layer's output in place."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        h += 5
        return self.fc(h.mean((2, 3)))


class Headed(nn.Module):
    """A classifier whose head is not its last linear layer.

    Args:
        kind: What lies beside the head.
    """

    def __init__(self, kind: str):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.conv, self.fc, self.other = nn.Conv2d(3, 8, 3), nn.Linear(8, 3), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.read(x))

    def read(self, x: Tensor) -> Tensor:
        """The input of the head."""
        h = self.conv(x).relu().mean((2, 3))
        other = self.other(h.square() if self.kind == "auxiliary" else h)
        return other.relu() if self.kind == "embedding" else h


HEADS: dict[str, Callable[[], nn.Module]] = {
    "an auxiliary head defined later": partial(Headed, "auxiliary"),
    "an embedding defined later": partial(Headed, "embedding"),
}


def in_place(network: nn.Module, layer: str, alone: Callable[[Tensor], Tensor]) -> str | None:
    """A tensor that is changed after the layer gave it."""
    x = torch.rand(6, 3, 12, 12)
    seen = Tap(network.eval(), layers=[layer])(x).features[layer]
    gap = float((seen - alone(x).mean((2, 3))).abs().max())
    return f"off by {gap:.3g}" if gap > 1e-5 else None


def relu_in_place() -> str | None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    return in_place(net, "0", net[0])


def adds_in_place() -> str | None:
    net = Adds()
    return in_place(net, "conv", net.conv)


def runs_twice() -> str | None:
    """Both calls must be seen, whatever they are called."""
    net, x = Twice().eval(), torch.rand(6, 3, 12, 12)
    features = Tap(net, layers=["act"])(x).features
    first = net.act(net.conv(x))
    told = torch.cat([f.flatten(1) for k, f in features.items() if k != "penultimate"], 1)
    for call in (first, net.act(first)):
        gap = (told[:, None] - call.mean((2, 3))[..., None]).abs().amin(2).max()
        if gap > 1e-5:
            return f"one of the two calls is not among {list(features)}"
    return None


def leaves_the_network() -> str | None:
    """No hook stays, no mode changes, also after an error."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3)).train()
    tap = Tap(net, layers=["1"])
    tap(torch.rand(2, 3, 4, 4))
    with contextlib.suppress(RuntimeError, ValueError):
        tap(torch.rand(2, 3, 5, 5))
    hooks = sum(len(m._forward_hooks) for m in net.modules())
    return f"{hooks} hooks, training {net.training}" if hooks or not net.training else None


def channels_last_maps() -> str | None:
    """torchvision's Swin gives [N, H, W, D]."""
    if not find_spec("torchvision"):
        raise Skipped("torchvision is not installed")
    network = openset.networks.build("torchvision:swin_t", classes=3, channels=3).eval()
    path = next(p for p, _ in network.named_modules() if p.endswith("features.1"))
    seen = Tap(network, layers=[path])(torch.rand(2, 3, 64, 64)).features[path]
    return None if seen.shape == (2, 96) else f"shape {tuple(seen.shape)}, for (2, 96)"


def of_eight_bits() -> str | None:
    """A quantised network is read, or refused in one sentence."""
    torch.backends.quantized.engine = "qnnpack" if platform.machine() == "aarch64" else "fbgemm"
    network = torch.ao.quantization.quantize_dynamic(small_network(), {nn.Linear})
    for name in ("energy", "mahalanobis", "vim"):
        model = openset.fit(network, {"d": build(name)}, *_sets(), accept=0.9)["d"]
        if not model(three_classes(8, 3)[0])[1].isfinite().all():
            return f"{name} gives scores that are no numbers"
    return None


LAYERS = {
    "an int8 network": of_eight_bits,
    "ReLU(inplace=True)": relu_in_place,
    "h += 5": adds_in_place,
    "a module that runs twice": runs_twice,
    "hooks and modes": leaves_the_network,
    "Swin's maps": channels_last_maps,
}


def right_head(make: Callable[[], nn.Module], named: bool = False) -> str | None:
    """The head is what gives the logits, and what goes into it is recorded."""
    net, x = make().eval(), torch.rand(6, 3, 12, 12)
    seen = Tap(net, head="fc" if named else None)(x)
    if not torch.allclose(seen.features["penultimate"], net.read(x), atol=1e-5):
        return "the penultimate features are not the head's input"
    if seen.head is None or not torch.equal(seen.head[0], net.fc.weight):
        return "the head's weights are not recorded"
    return None


class TwoHeads(nn.Module):
    """Logits that are a mean of two heads, as timm's distilled networks give."""

    def __init__(self):
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(1, 8, 3), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu().mean((2, 3))
        return (self.a(h) + self.b(h)) / 2


def no_head() -> str | None:
    """A detector that needs the head must say that there is none."""
    for name in ("vim", "react"):
        try:
            openset.fit(TwoHeads().eval(), {name: build(name)}, *_sets(), accept=0.9)
        except ValueError as error:
            if "head" not in str(error):
                raise
        else:
            return f"{name} was fitted on a network without a single head"
    return None


class Scale(nn.Module):
    """Normalises, as many put before their network."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


def compiled(network: nn.Module, first: bool = False) -> nn.Module:
    made = torch.compile(network, backend="eager")
    if first:
        made(three_classes(4)[0])
    return made


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "Sequential(scale, network)": lambda net: trained(nn.Sequential(Scale(), net)),
    "DataParallel": nn.DataParallel,
    "compiled": compiled,
    "compiled, called": partial(compiled, first=True),
    "traced": lambda net: torch.jit.trace(net, three_classes(4)[0]),
}


READS = {"gemos:components=1": 3, "fusion": 2, "vmdls-b": 3}
"""Layers that each detector reads at least of a network of three stages."""


def wrapped(detector: str, wrap: Callable[[nn.Module], nn.Module]) -> str | None:
    """The detector reads of a wrapped network as many layers as of the bare one."""
    network = wrap(small_network()).eval()
    x = three_classes(8, 3)[0]
    models = []
    for net in (small_network(), network):
        try:
            models.append(openset.fit(net, {"d": build(detector)}, *_sets(), accept=0.9)["d"])
        except ValueError as error:
            if "unknown layer" in str(error):  # Nobody has named one.
                return str(error)
            raise
    first, second = map(_layers, models)
    if first != second:
        return f"reads {second} layers, {first} of the bare network"
    scaled = isinstance(network, nn.Sequential)
    if not scaled and not torch.allclose(*(model(x)[1] for model in models), atol=1e-3):
        return "scores differ from the bare network's"
    return None


def _layers(model: OpenSet) -> int:
    return len(model.tap.layers)


def _sets() -> tuple[list, list]:
    return [three_classes(120, 1)], [three_classes(120, 2)]


def own_network(detector: str) -> str | None:
    """A network without named stages, as people write them."""
    torch.manual_seed(0)
    blocks = [(1, 4), (4, 8), (8, 8)]
    convs = [
        nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU(True)) for i, o in blocks
    ]
    net = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    model = openset.fit(trained(net), {"d": build(detector)}, *_sets(), accept=0.9)["d"]
    return None if _layers(model) >= READS[detector] else f"reads only {model.tap.layers}"


def into_the_bare(name: str) -> str | None:
    """A model saved with a wrapped network is loaded with the bare one."""
    network = WRAPPERS[name](small_network()).eval()
    model = openset.fit(network, {"d": build("mahalanobis")}, *_sets(), accept=0.9)["d"]
    model.save("m")
    x = three_classes(8, 3)[0]
    expected = model(x)[1]
    other = openset.networks.cnn(3, 1, widths=(4, 8), hidden=8)
    got = OpenSet.load("m", network=other)(x)[1]
    return None if torch.allclose(got, expected, atol=1e-3) else "scores differ"


ZOO = (
    *(f"torchvision:{n}" for n in ("resnet18", "densenet121", "vgg11", "mobilenet_v3_small")),
    *(f"torchvision:{n}" for n in ("efficientnet_b0", "convnext_tiny", "swin_t", "regnet_x_400mf")),
    *(f"timm:{n}" for n in ("hrnet_w18_small", "selecsls42", "deit_tiny_distilled_patch16_224")),
)


def of_the_zoo(name: str) -> str | None:
    """Detectors are fitted to a network of another library, and read several of its stages."""
    library = name.partition(":")[0]
    if not find_spec(library):
        raise Skipped(f"{library} is not installed")
    size = 224 if "224" in name else 64
    network = openset.networks.build(name, classes=3, channels=3).eval()
    x = torch.rand(48, 3, size, size)
    y = balanced(network, x)
    # Full covariances of a VGG's features would take gigabytes.
    detectors = {"fusion": build("fusion"), "gemos:components=1": build(DIAGONAL)}
    models = openset.fit(network, detectors, [(x, y)], [(x, y)], accept=0.8)
    few = {key: m.tap.layers for key, m in models.items() if _layers(m) < READS[key]}
    return f"few layers: {few}" if few else None


DIAGONAL = "gemos:components=1,covariance=diag"


@torch.no_grad()
def balanced(network: nn.Module, image: Tensor) -> Tensor:
    """Centres the logits of an untrained network; the labels that it gives then, some of each."""
    mean = network(image).mean(0)
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.out_features == len(mean):
            module.bias -= mean
    return network(image).argmax(1)
