"""Makes networks by name, and makes them again from the description in a saved model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from openset import spec as names
from openset.networks.allowance import Allowance
from openset.networks.autoencoder import autoencoder, spatial_autoencoder
from openset.networks.base import Backbone, Normalize, described, normalised
from openset.networks.checkpoint import load_weights
from openset.networks.cnn import cnn, plain_cnn
from openset.networks.densenet import densenet_121, densenet_bc_40, densenet_bc_100
from openset.networks.external import described_transformer, smp, timm, torchvision, transformers
from openset.networks.heads.binary import binary_heads
from openset.networks.heads.bottleneck import bottleneck
from openset.networks.heads.capsules import capsules
from openset.networks.heads.conditioned import conditioned
from openset.networks.heads.confident import confident
from openset.networks.heads.decomposed import decomposed
from openset.networks.heads.drawn_code import drawn_code
from openset.networks.heads.ensemble import ensemble
from openset.networks.heads.gaussian_ladder import gaussian_ladder
from openset.networks.heads.ladder_codes import ladder_codes
from openset.networks.heads.one_vs_all import one_vs_all
from openset.networks.heads.reciprocal import reciprocal
from openset.networks.heads.shifted import shifted
from openset.networks.heads.subspaces import subspaces
from openset.networks.ladder import ladder_small
from openset.networks.ladder_densenet import ladder_densenet_121
from openset.networks.latent import latent
from openset.networks.outputs import logits_of
from openset.networks.real_nvp import real_nvp
from openset.networks.resnet import resnet18, resnet34
from openset.networks.select import select
from openset.networks.spade import spade
from openset.networks.vgg import vgg, vgg13
from openset.networks.wide_resnet import wrn_16_2, wrn_16_4, wrn_28_10

NETWORKS: dict[str, Callable[..., Any]] = {
    "cnn": cnn,
    "plain-cnn": plain_cnn,
    "vgg": vgg,
    "vgg13": vgg13,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "wrn-16-2": wrn_16_2,
    "wrn-16-4": wrn_16_4,
    "wrn-28-10": wrn_28_10,
    "densenet-121": densenet_121,
    "densenet-bc-40": densenet_bc_40,
    "densenet-bc-100": densenet_bc_100,
}
"""Factories `(classes, channels=3, …) -> network` of whole images, by name."""

DENSE: dict[str, Callable[..., Any]] = {
    "ladder-small": ladder_small,
    "ladder-densenet-121": ladder_densenet_121,
}
"""Factories `(classes, channels=3, …) -> network` that labels pixels, by name."""

LIBRARIES: dict[str, Callable[..., Any]] = {
    "timm": timm,
    "torchvision": torchvision,
    "smp": smp,
    "transformers": transformers,
}
"""Factories `(model, classes, channels=3, …)` of other libraries' networks: `timm:resnet18`."""

SAVED: dict[str, Callable[..., Any]] = {"transformers": described_transformer}
"""Factories for names in saved models that stand for another one where a user gives them."""

HEADS: dict[str, Callable[..., Any]] = {
    "latent": latent,
    "binary-heads": binary_heads,
    "bottleneck": bottleneck,
    "capsules": capsules,
    "conditioned": conditioned,
    "confident": confident,
    "decomposed": decomposed,
    "drawn-code": drawn_code,
    "ensemble": ensemble,
    "gaussian-ladder": gaussian_ladder,
    "ladder-codes": ladder_codes,
    "one-vs-all": one_vs_all,
    "reciprocal": reciprocal,
    "shifted": shifted,
    "subspaces": subspaces,
    "select": select,
    "normalised": normalised,
}
"""Functions `(network, …) -> network` that put other heads on a network, by name."""

AUTOENCODERS: dict[str, Callable[..., Any]] = {
    "autoencoder": autoencoder,
    "spatial-autoencoder": spatial_autoencoder,
}
"""Factories `(channels, …) -> network` from images to images, by name."""

FLOWS: dict[str, Callable[..., Any]] = {"real-nvp": real_nvp}
"""Factories `(channels, …) -> network` of densities that draw images, by name."""

GENERATORS: dict[str, Callable[..., Any]] = {"spade": spade}
"""Factories `(classes, channels, …) -> network` from class maps to images, by name."""

NAMED = NETWORKS | DENSE | LIBRARIES | AUTOENCODERS | FLOWS | GENERATORS
"""All factories that a user's string may name."""

__all__ = [
    "AUTOENCODERS",
    "DENSE",
    "FLOWS",
    "GENERATORS",
    "HEADS",
    "LIBRARIES",
    "NETWORKS",
    "Backbone",
    "Normalize",
    "autoencoder",
    "binary_heads",
    "bottleneck",
    "build",
    "capsules",
    "cnn",
    "conditioned",
    "confident",
    "decomposed",
    "densenet_121",
    "densenet_bc_40",
    "densenet_bc_100",
    "described",
    "drawn_code",
    "ensemble",
    "from_spec",
    "gaussian_ladder",
    "ladder_codes",
    "ladder_densenet_121",
    "ladder_small",
    "latent",
    "load_weights",
    "logits_of",
    "normalised",
    "one_vs_all",
    "plain_cnn",
    "real_nvp",
    "reciprocal",
    "resnet18",
    "resnet34",
    "restore",
    "select",
    "shifted",
    "spade",
    "spatial_autoencoder",
    "subspaces",
    "vgg",
    "vgg13",
    "wrn_16_2",
    "wrn_16_4",
    "wrn_28_10",
]


def build(spec: str | Mapping[str, Any], *, trust: names.Trust = None, **given: Any) -> nn.Module:
    """Makes the network that a string names, such as `"cnn"` or `"cnn:widths=16+32,hidden=64"`.

    Args:
        spec: A name of `NETWORKS` with its settings, `timm:NAME`, `torchvision:NAME`, `smp:NAME`,
            `transformers:NAME`,
            or `package.module:factory` for your own, `eff:make` for that of `eff.py` in the current
            folder; or a mapping as `from_spec` takes it.
        trust: Packages whose factories may be imported; None any, for a string that a user typed.
        given: What the caller knows, such as `classes` and `channels`; a factory gets those that
            it takes and that `spec` does not set.

    Raises:
        ValueError: For a name or setting that does not exist, with the nearest ones that do.

    Example:
        >>> build("cnn:hidden=64", classes=6, channels=1).head
        Linear(in_features=64, out_features=6, bias=True)
    """
    if not isinstance(spec, str):
        return _make(spec, trust or (), given)
    name, bare, keyed = names.parse(spec, NAMED)
    return names.call(f"network {name}", find(name, NAMED, trust), keyed, bare, given)


def from_spec(spec: Mapping[str, Any], trust: names.Trust = ()) -> nn.Module:
    """Makes again the network that `network.spec` describes; its weights are loaded separately.

    Args:
        spec: The name and every argument; an argument that is a mapping is itself a network.
        trust: Packages whose factories may be imported. A spec that comes from a file could name
            any function, so none outside openset runs unless its package is listed here.

    Raises:
        ValueError: For a factory of a package that is not trusted, or an unknown name.

    Example:
        >>> network = cnn(classes=6, channels=1)
        >>> again = from_spec(network.spec)
        >>> again.load_state_dict(network.state_dict())
        <All keys matched successfully>
    """
    return _make(spec, trust, {})


def restore(spec: Mapping[str, Any], weights: Path, trust: names.Trust = ()) -> nn.Module:
    """The network that a file describes and a file of weights fills, which must fit each other.

    Args:
        spec: As for `from_spec`; it makes nothing larger than the weights.
        weights: A `.safetensors` file.
        trust: As for `from_spec`.
    """
    with Allowance.of(weights, "the network's description") as allowance:
        allowance.check_sizes(spec)
        network = from_spec(spec, trust)
    return load_weights(network, weights)


def _make(spec: Mapping[str, Any], trust: names.Trust, given: dict[str, Any]) -> nn.Module:
    settings = {
        key: _make(value, trust, given) if isinstance(value, Mapping) else value
        for key, value in spec.items()
    }
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"a network's spec needs a name; got {dict(spec)!r:.200}")
    if name in LIBRARIES and name not in SAVED:
        settings["pretrained"] = False  # The weights come with the saved model.
    table = NAMED | HEADS | SAVED
    return names.call(f"network {name}", find(name, table, trust), settings, (), given)


def find(
    name: str, table: Mapping[str, Callable[..., Any]], trust: names.Trust
) -> Callable[..., Any]:
    """The factory of that name, from a table or imported from a trusted package."""
    factory = names.look_up("network", table, name, trust)
    return factory if name in table else described(factory, name)
