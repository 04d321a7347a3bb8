"""Names of networks and detectors, as a user gives them, and as files and results hold them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from torch import nn

from openset import networks
from openset.data import Adapter
from openset.runs.recipe import fitting_to
from openset.spec import parse


def network_name(network: Mapping[str, Any]) -> str:
    """A network's name for people: `timm:resnet18`, and of chosen outputs their network's."""
    if network["name"] == "select":
        return network_name(network["network"])
    return ":".join([network["name"], *filter(None, [network.get("model")])])


def plain_name(detector: str) -> str:
    """A detector's name as that of a folder on any system.

    Example:
        >>> plain_name("gemos:components=1")
        'gemos@components=1'
        >>> plain_name("vmdls:autoencoder=runs/a")
        'vmdls@autoencoder=runs_a-29f013'
    """
    readable = re.sub(r"[^\w.=+,@-]|\.$", "_", detector.replace(":", "@"))[:100]
    if readable == detector.replace(":", "@"):
        return readable
    return f"{readable}-{sha256(os.fsencode(detector)).hexdigest()[:6]}"  # Another may look alike.


def named_network(
    named: str | None,
    spec: Mapping[str, Any] | None,
    fits: tuple[Sequence[str] | None, Adapter | None],
    trust: Sequence[str],
) -> tuple[nn.Module | None, Sequence[str]]:
    """The network that a user names for a saved one, and what is trusted to build that.

    Where it is the one that `spec` tells of, None: it is built as it was, from what is trusted now.

    Args:
        named: The user's name of the network; None for none.
        spec: The saved network's own description; None if openset did not build it.
        fits: Its classes and adapter.
        trust: Packages that are trusted anyway.
    """
    if named is None:
        return None, trust
    name, *_ = parse(named, networks.NAMED)
    if spec is not None and name == _factory(spec):
        return None, (*trust, name.partition(":")[0])
    classes, adapter = fits
    given = {} if classes is None or adapter is None else fitting_to(len(classes), adapter)
    return networks.build(named, **given), trust


def _factory(spec: Mapping[str, Any]) -> str:
    """The name of a network's factory, below the heads that were put on it."""
    inner = spec.get("network")
    return _factory(inner) if isinstance(inner, Mapping) else spec["name"]
