"""Benchmark protocols: the methods that are compared, their data and the published figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openset.benchmark.protocol_file import (
    TIERS,
    Figures,
    merged,
    peers_installed,
    read,
    settings,
    tier_of,
)
from openset.errors import unknown_name
from openset.evaluation import metrics
from openset.spec import Trust
from openset.training.settings import Settings

FOLDER = Path(__file__).parent / "protocols"


WITHOUT_PEERS = (
    "pytorch-ood is not installed, so its detectors are left out; "
    "for them: pip install 'openset[peers]'."
)


@dataclass
class Method:
    """A network, how it is trained, and the detectors on it.

    Args:
        network: As `networks.build` takes it.
        objective: The training method with its settings, such as `cross-entropy`.
        detectors: As `detectors.build` takes them.
        training: The training settings; the seed is that of the trial.
        weights: A file of weights to start from.
        tune: By detector, the unknown sets that its settings are chosen on, none of them among
            those of the test; an empty list leaves the choice to known data.
        published: The published figures of these detectors.
        companions: Networks that are trained on the same images, by name. A detector or objective
            that takes a setting of that name gets it, as `VMDLS` its autoencoder and
            `flow-outliers` its flow; weights that are such a name are the companion's.
    """

    network: str
    objective: str
    detectors: list[str]
    training: Settings
    weights: str | None = None
    tune: dict[str, list[str]] = field(default_factory=dict)
    published: Figures = field(default_factory=dict)
    companions: dict[str, Method] = field(default_factory=dict)


@dataclass
class Protocol:
    """One tier of a protocol, checked.

    Args:
        name: The file's name without its ending.
        tier: "quick", "cpu", "gpu" or "paper".
        title: One line.
        source: The paper, with its link.
        data: The known set.
        splits: The known classes of each split as `data.load` takes them; None means all classes.
        unknown: The unknown sets by group; the group "" has no mean of its own.
        methods: The networks that are trained, with the detectors that are evaluated.
        metrics: Metrics that the paper's table shows.
        others: Published figures of methods that are not run here.
        notes: Sentences on where this differs from the paper.
    """

    name: str
    tier: str
    title: str
    source: str
    data: str
    splits: list[str | None]
    unknown: dict[str, list[str]]
    methods: list[Method]
    metrics: list[str]
    others: Figures
    notes: list[str]
    seeds: int = 1
    size: int | tuple[int, int] | None = None
    channels: int | None = None
    valid: float = 0.1
    accept: float = 0.95
    trust: Trust = ()

    @property
    def unknown_sets(self) -> list[str]:
        """All unknown sets, in their order."""
        return list(dict.fromkeys(name for names in self.unknown.values() for name in names))

    @property
    def measured(self) -> tuple[str, ...]:
        """The standard metrics, and those that the protocol names beyond them."""
        return tuple(dict.fromkeys((*metrics.STANDARD, *self.metrics)))


def names() -> list[str]:
    """The protocols that come with openset."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find(name: str) -> Path:
    """The file of a protocol that comes with openset, or the user's own by its path."""
    own = Path(name)
    if own.suffix == ".toml":
        if not own.is_file():
            raise ValueError(f"{own} is no file; name a protocol: {', '.join(names())}")
        return own
    if name not in names():
        raise ValueError(f"{unknown_name('protocol', name, names())} A path to a .toml works too")
    return FOLDER / f"{name}.toml"


def tiers(name: str) -> list[str]:
    """The tiers of a protocol; each has the paper's."""
    table = read(find(name))
    return [tier for tier in TIERS if tier in table or tier == "paper"]


def load(name: str, tier: str = "paper", trust: Trust = ()) -> Protocol:
    """A tier of a protocol.

    Args:
        name: One of `names()`, or the path of a TOML file.
        tier: "paper" for the paper's settings, or one of `tiers(name)`: "quick" for minutes on two
            cores, "cpu" for hours on them, "gpu" for minutes of one GPU.
        trust: Packages outside openset that the file's names may import.

    Raises:
        ValueError: For a file that is no valid protocol, naming the place.

    Example:
        >>> load("osr-mnist", "quick").splits[0]
        '2,4,5,9,8,3'
    """
    path = find(name)
    table = read(path, trust)
    if tier != "paper" and tier not in table:
        raise ValueError(f"{path} has no [{tier}] tier; it has {', '.join(tiers(name))}")
    return _protocol(path.stem, tier, tier_of(table, tier), trust)


def _protocol(name: str, tier: str, table: dict[str, Any], trust: Trust) -> Protocol:
    optional = ("seeds", "size", "channels", "valid", "accept")
    peers = any("peers" in method for method in (table, *table.get("methods", [])))
    unknown = table["unknown"]
    changes = table.get("methods", [{}])
    methods = [_method(merged(table, own), own.get("published", {})) for own in changes]
    run = {detector for method in methods for detector in method.detectors}
    unrun = {k: figures for k, figures in table.get("published", {}).items() if k not in run}
    return Protocol(
        name,
        tier,
        table["title"],
        table.get("source", ""),
        table["data"],
        [",".join(map(str, split)) for split in table.get("splits", [])] or [None],
        unknown if isinstance(unknown, dict) else {"": unknown},
        methods,
        table.get("metrics", ["auroc"]),
        unrun | table.get("others", {}),
        [*table.get("notes", []), *([WITHOUT_PEERS] if peers and not peers_installed() else [])],
        trust=trust,
        **{key: _plain(table[key]) for key in optional if key in table},
    )


def _plain(value: Any) -> Any:
    """A setting as `data.load` takes it: a height and a width are a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _method(table: dict[str, Any], own: Figures = {}) -> Method:  # noqa: B006
    """A method; figures of its own are kept where the detector is not run, too."""
    names = [*table["detectors"], *(table.get("peers", []) if peers_installed() else [])]
    return Method(
        table["network"],
        table.get("objective", "cross-entropy"),
        names,
        settings(table.get("training", {})),
        table.get("weights"),
        {k: v for k, v in table.get("tune", {}).items() if k in names},
        {k: v for k, v in table.get("published", {}).items() if k in names or k in own},
        {name: _method({"detectors": [], **t}) for name, t in table.get("companions", {}).items()},
    )
