"""`openset list`."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Column, Table

from openset.benchmark import protocol
from openset.commands.screen import show
from openset.data.places import known_names
from openset.densities import DENSITIES
from openset.detectors import DETECTORS
from openset.errors import unknown_name
from openset.evaluation.metrics import METRICS
from openset.networks import AUTOENCODERS, DENSE, FLOWS, GENERATORS, NETWORKS
from openset.objectives import OBJECTIVES
from openset.spec import parameters_of


def list_names(what: str) -> None:
    """List detectors, densities, objectives, networks, metrics, protocols or data.

    Args:
        what: The list to show, by one of those words.
    """
    show(listing(what))


def listing(what: str) -> Table:
    """A table of names, each with its description and its settings.

    Raises:
        ValueError: If there is no such list.
    """
    tables: dict[str, Mapping[str, Any]] = {
        "detectors": DETECTORS,
        "densities": DENSITIES,
        "objectives": OBJECTIVES,
        "networks": NETWORKS | DENSE | AUTOENCODERS | FLOWS | GENERATORS,
        "metrics": {name: metric.measure for name, metric in METRICS.items()},
    }
    if what == "data":
        return _plain("data", known_names())
    if what == "protocols":
        return protocols()
    if what not in tables:
        raise ValueError(unknown_name("list", what, {*tables, "data", "protocols"}))
    if what == "metrics":
        return _plain(what, METRICS)
    table = Table("name", "what it is", "settings", title=what)
    for name, factory in sorted(tables[what].items()):
        settings = [key for key in parameters_of(factory) if key not in GIVEN]
        table.add_row(name, _sentence(factory), ", ".join(settings))
    return table


GIVEN = ("network", "classes", "channels", "self")
"""Parameters that no user sets: the run supplies them."""


def protocols() -> Table:
    """The protocols that come with openset: each with its known set and its trainings by tier."""
    heads = (Column("name", no_wrap=True), "what it is", "known", "trainings by tier")
    table = Table(*heads, title="protocols")
    for name in protocol.names():
        tiers = {tier: protocol.load(name, tier) for tier in protocol.tiers(name)}
        paper = tiers["paper"]
        each = [f"{tier}: {_trainings(tiers[tier])}" for tier in protocol.TIERS if tier in tiers]
        table.add_row(name, paper.title, paper.data, "\n".join(each))
    return table


def _trainings(tier: protocol.Protocol) -> str:
    """Networks and epochs, each once with how often it is trained."""
    repeats = tier.seeds * len(tier.splits)
    each = Counter(f"{m.network}, {m.training.epochs} epochs" for m in tier.methods)
    return "; ".join(
        told + (f" × {count * repeats}" if count * repeats > 1 else "")
        for told, count in each.items()
    )


def _plain(title: str, names: Any) -> Table:
    table = Table("name", title=title)
    for name in names:
        table.add_row(name)
    return table


def _sentence(factory: Any) -> str:
    text = inspect.getdoc(factory) or ""
    return text.split("\n\n")[0].replace("\n", " ")
