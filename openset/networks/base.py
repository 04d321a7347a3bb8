"""The parts of every network here: normalize → stem → stages → neck → head."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openset.networks.watch import evaluating


class Normalize(nn.Module):
    """(image − mean) / std per channel. It sits in the network, so that images stay in 0…1.

    Args:
        mean: One value per channel, in 0…1.
        std: One value per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Iterable[float], std: Iterable[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor([*map(float, mean)]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor([*map(float, std)]).view(-1, 1, 1))

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-3] != len(self.mean):
            # Broadcasting would take a grey image for a coloured one without a word.
            raise ValueError(
                f"images have {image.shape[-3]} channels, the network expects {len(self.mean)}; "
                "convert them or build the network with that many channels"
            )
        return (image - self.mean) / self.std


def normalised(network: nn.Module, mean: Iterable[float], std: Iterable[float]) -> nn.Module:
    """The network behind a `Normalize`, so that it takes images in 0…1.

    Args:
        network: A network that wants its images normalised.
        mean: One value per channel, in 0…1.
        std: One value per channel.
    """
    mean, std = [*mean], [*std]
    whole = named(normalize=Normalize(mean, std), network=network)
    if inner := getattr(network, "spec", None):
        told = {"name": "normalised", "network": inner, "mean": mean, "std": std}
        whole.spec = told  # pyright: ignore[reportArgumentType]
    return whole


def normalises(network: nn.Module) -> bool:
    """Whether a network, or one inside it, takes a mean off and divides by a deviation itself."""
    return any(
        type(part).__name__ == "Normalize" and hasattr(part, "mean") and hasattr(part, "std")
        for part in network.modules()
    )


class Backbone(nn.Module):
    """A classifier in named parts: normalize → stem → stage1 … stageN → neck → head.

    Args:
        channels: Channels of the image; `normalize` starts as (x − 0.5) / 0.5 on each.
        stem: What comes before the first stage.
        stages: The stages, early to late; they become `stage1`, `stage2`, …
        neck: From the last stage's map to features `[N, D]`, such as pooling and flattening.
        head: From features to logits `[N, K]`.
    """

    stages: tuple[str, ...]
    spec: dict[str, Any] | None = None
    """The factory and its arguments, by which a saved model builds the network again."""

    def __init__(
        self,
        channels: int,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        neck: nn.Module,
        head: nn.Module,
    ):
        super().__init__()
        self.normalize: nn.Module = Normalize([0.5] * channels, [0.5] * channels)
        self.stem = stem
        for i, stage in enumerate(stages, start=1):
            self.add_module(f"stage{i}", stage)
        self.stages = tuple(f"stage{i}" for i in range(1, len(stages) + 1))
        self.neck = neck
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(self.normalize(image))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.head(self.neck(x))

    def maps(self, image: Tensor) -> list[Tensor]:
        """The map `[N, C, H, W]` that each stage gives of images."""
        found = [self.stem(self.normalize(image))]
        for stage in self.stages:
            found.append(self.get_submodule(stage)(found[-1]))
        return found[1:]

    def widths(self) -> list[int]:
        """Channels of the map that each stage gives."""
        mean = self.normalize.get_buffer("mean")
        with torch.no_grad(), evaluating(self):
            return [x.shape[1] for x in self.maps(torch.zeros(1, len(mean), 32, 32).to(mean))]


def need_stages(network: nn.Module, what: str) -> Backbone:
    """The network, if it is one whose stages can be run one by one."""
    if not isinstance(network, Backbone):
        raise ValueError(
            f"{what} need a network in stages; {type(network).__name__} is none: take one of "
            "openset, such as cnn or vgg"
        )
    return network


def described(factory: Callable[..., nn.Module], name: str | None = None) -> Callable[..., Any]:
    """Lets a factory note on each network how it was made, in `network.spec`.

    A network among the arguments, as a factory of heads takes, is noted by its own spec; where it
    has none, nothing is noted.

    Args:
        factory: A function or class that makes a network.
        name: The name under which it is found again; None for the factory's own in kebab-case.
    """
    signature = inspect.signature(factory)
    name = name or factory.__name__.replace("_", "-")

    @functools.wraps(factory)
    def build(*args: Any, **kwargs: Any) -> nn.Module:
        network = factory(*args, **kwargs)
        if not isinstance(network, nn.Module):
            raise ValueError(f"{name} made a {type(network).__name__}; expected an nn.Module")
        bound = signature.bind(*args, **kwargs)
        given = {*bound.arguments}
        bound.apply_defaults()
        # A default such as a class is not noted, as a file cannot hold it.
        arguments = {k: v for k, v in bound.arguments.items() if k in given or _is_plain(v)}
        for key, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(key, {}))
        inner = {
            k: getattr(v, "spec", None) for k, v in arguments.items() if isinstance(v, nn.Module)
        }
        spec = None if None in inner.values() else {"name": name, **arguments, **inner}
        network.spec = spec  # pyright: ignore[reportArgumentType]
        return network

    return build


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold a value."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | dict | nn.Module)


def pooled_neck(*before: nn.Module) -> nn.Sequential:
    """Global average pooling to `[N, D]`, after the given modules."""
    return nn.Sequential(*before, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def named(**modules: nn.Module) -> nn.Sequential:
    """A sequence whose parts have names."""
    return nn.Sequential(OrderedDict(modules))


def initialised(network: Backbone) -> Backbone:
    """The network with He's initialisation: convolutions N(0, 2 / fan-out), every bias zero.

    He et al. 2015, "Delving Deep into Rectifiers", https://arxiv.org/abs/1502.01852
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return network
