"""Reads and checks a protocol's file; an error names the place, such as `methods[1].detectors`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypedDict

from torch import nn

from openset import detectors
from openset.data.sources import DataName
from openset.errors import unknown_name
from openset.evaluation import metrics
from openset.files import check_small
from openset.model.tune import refuse_leak
from openset.networks import NAMED
from openset.objectives import OBJECTIVES, exposed_to
from openset.spec import Range, Trust, check_kinds, hints_of, look_up, parse
from openset.training.settings import Settings

LEFT_OUT = "left-out"
"""Names, among the unknown sets, the test images of the classes that a split leaves out."""


KNOWN = "known"
"""Stands, among the published figures, for those that need no unknown set, such as accuracy."""


Share = Annotated[float, Range(0, most=1)]


Figures = dict[str, dict[str, dict[str, Share]]]
"""Published figures by detector, unknown set and metric."""


class CompanionTable(TypedDict, total=False):
    """Keys that a companion may set."""

    network: str
    objective: str
    training: dict[str, Any]


class MethodTable(CompanionTable, total=False):
    """Keys that a method may set; a protocol of one method sets them at the top."""

    weights: str
    detectors: list[str]
    peers: list[str]
    tune: dict[str, list[str]]
    published: Figures
    companions: dict[str, dict[str, Any]]


class TierTable(MethodTable, total=False):
    """Keys that a tier may set; the top of the file sets those that all tiers share."""

    data: str
    splits: list[list[str | int]]
    unknown: list[str] | dict[str, list[str]]
    size: Annotated[int, Range(least=1)] | tuple[int, int]
    channels: int
    valid: Share
    accept: Share
    seeds: Annotated[int, Range(least=1)]
    metrics: list[str]
    notes: list[str]
    others: Figures
    methods: list[dict[str, Any]]


class TopTable(TierTable, total=False):
    """Keys that the top of the file may set."""

    title: str
    source: str
    quick: dict[str, Any]
    cpu: dict[str, Any]
    gpu: dict[str, Any]
    paper: dict[str, Any]


TIERS = ("quick", "cpu", "gpu", "paper")


SHORTER = ("cpu", "gpu")
"""Tiers that say only where they differ from the paper's."""


def tier_of(table: Mapping[str, Any], tier: str) -> dict[str, Any]:
    """The top of a protocol with what a tier changes."""
    whole = {key: value for key, value in table.items() if key not in TIERS}
    for name in (["paper"] if tier in SHORTER else []) + [tier]:
        whole = merged(whole, table.get(name, {}))
    return whole


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A table with changes: settings of a training and detectors' published figures change one by
    one, notes are added to those above, and all else changes as a whole."""
    both = {**table, **changes}
    for key in ("training", "published"):
        both[key] = {**table.get(key, {}), **changes.get(key, {})}
    both["notes"] = [*table.get("notes", []), *changes.get("notes", [])]
    return both


def settings(table: Mapping[str, Any]) -> Settings:
    """The training settings of a table."""
    return Settings().changed(
        {key: tuple(x) if isinstance(x, list) else x for key, x in table.items()}
    )


def peers_installed() -> bool:
    """Whether the detectors of another library can be run beside ours."""
    return find_spec("pytorch_ood") is not None


def read(path: Path, trust: Trust = ()) -> dict[str, Any]:
    """The table of a protocol's file, checked.

    Args:
        path: The file.
        trust: Packages that may be imported for names such as `package.module:Class`.

    Raises:
        ValueError: For what is no protocol, naming the place.
    """
    check_small(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} is no TOML: it is nested too deeply") from None
    _Checker(path, trust).check(table)
    return table


Keys = tuple[str | int, ...]
"""The way to a value: names of tables and keys, and positions in lists."""


class _Checker:
    """Checks a protocol's file and raises at its first mistake.

    Args:
        path: The file, for the errors.
        trust: As for `read`.
    """

    def __init__(self, path: Path, trust: Trust):
        self.path, self.trust = path, trust

    def refuse(self, keys: Keys, problem: object) -> NoReturn:
        """Raises the error for what stands under a key."""
        place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
        raise ValueError(f"{self.path}: {place.strip('.') or 'the top'}: {problem}") from None

    def attempt(self, keys: Keys, make: Callable[..., object], *given: Any, **named: Any) -> None:
        """Calls a function; if it raises for a wrong value, names the place in the error."""
        try:
            make(*given, **named)
        except ValueError as error:
            self.refuse(keys, error)

    def check(self, table: dict[str, Any]) -> None:
        """Raises for a wrong key, kind or name anywhere in the file."""
        self.check_keys((), table, TopTable)
        for tier in TIERS:
            self.check_keys((tier,), table.get(tier, {}), TierTable)
        for keys, part in _tables(table):
            self.check_names(keys, part)
        for tier in [t for t in TIERS if t in table] or [""]:
            self.check_whole((tier,) if tier else (), tier_of(table, tier))
        self.check_figures(table)

    def check_keys(self, keys: Keys, table: Any, kind: Any) -> None:
        """Raises for a key that is not among a table's, or a value of another kind."""
        known = hints_of(kind)
        for key, value in table.items():
            if key not in known:
                self.refuse((*keys, key), unknown_name("key", key, known))
            self.attempt((*keys, key), check_kinds, "a protocol", kind, {key: value})
        for i, method in enumerate(table.get("methods", [])):
            self.check_keys((*keys, "methods", i), method, MethodTable)
        for place, companion in _companions(keys, table):
            if "network" not in companion:
                self.refuse(place, "a companion is a table with a network and its training")
            self.check_keys(place, companion, CompanionTable)

    def check_names(self, keys: Keys, table: dict[str, Any]) -> None:
        """Raises for a detector, metric, network, objective or setting that does not exist."""
        for name in table.get("peers", []) if peers_installed() else []:
            self.attempt((*keys, "peers"), detectors.build, name, trust=self.trust)
        for name in table.get("metrics", []):
            self.attempt((*keys, "metrics"), metrics.find, name)
        known = {"network": NAMED, "objective": OBJECTIVES}
        for key in known.keys() & table.keys():
            name = parse(table[key])[0]
            self.attempt((*keys, key), look_up, key, known[key], name, self.trust)
        for key, value in table.get("training", {}).items():
            self.attempt((*keys, "training", key), settings, {"milestones": [1], key: value})

    def check_whole(self, keys: Keys, table: dict[str, Any]) -> None:
        """Raises for what a tier lacks, once it is merged with the top."""
        for key in ("title", "data", "unknown"):
            if key not in table:
                self.refuse(keys, f"{key} is missing; every protocol needs one")
        for i, changes in enumerate(table.get("methods", [{}])):
            place = (*keys, "methods", i) if "methods" in table else keys
            self.check_method(place, merged(table, changes))
            self.check_tuning(place, merged(table, changes))
            exposed = parse(changes.get("objective", table.get("objective", "")))[2].get("data")
            shown = [str(exposed)] if exposed else []
            self.attempt((*place, "objective"), refuse_leak, shown, _sets(table["unknown"]))
        if LEFT_OUT in _sets(table["unknown"]) and not table.get("splits"):
            self.refuse((*keys, "unknown"), f"{LEFT_OUT} needs splits: lists of known classes")

    def check_method(self, keys: Keys, table: dict[str, Any]) -> None:
        """Raises for a method without a network, or with detectors that cannot be built."""
        for key in ("network", "detectors"):
            if not table.get(key):
                self.refuse(keys, f"{key} is missing; every method needs one")
        given = dict.fromkeys(table.get("companions", {}), nn.Identity())
        given |= {"load": lambda run: nn.Identity(), "trust": self.trust}
        for name in table["detectors"]:
            self.attempt((*keys, "detectors"), detectors.build, name, **given)
        for place, whole in ((keys, table), *_companions(keys, table)):
            self.attempt((*place, "training"), settings, whole.get("training", {}))

    def check_tuning(self, keys: Keys, table: dict[str, Any]) -> None:
        """Raises for tuning of a detector that is not there, or that sees what is tested."""
        for detector, sets in table.get("tune", {}).items():
            place = (*keys, "tune", detector)
            if detector not in table["detectors"]:
                self.refuse(place, unknown_name("detector here", detector, table["detectors"]))
            self.attempt(place, refuse_leak, sets, _sets(table["unknown"]))
        shown = exposed_to(table.get("objective", ""))
        self.attempt((*keys, "objective"), refuse_leak, shown, _sets(table["unknown"]))

    def check_figures(self, table: dict[str, Any]) -> None:
        """Raises for published figures of what the protocol does not have."""
        run = {name for _, part in _tables(table) for name in part.get("detectors", [])}
        unknown = [part["unknown"] for _, part in _tables(table) if "unknown" in part]
        sets = {KNOWN, *(str(DataName.parse(name)) for each in unknown for name in _sets(each))}
        sets |= {group for each in unknown if isinstance(each, dict) for group in each}
        for keys, part in _tables(table):
            for detector in part.get("published", {}):
                if detector not in run:
                    hint = "; methods that are not run go under [others]"
                    problem = unknown_name("detector here", detector, run) + hint
                    self.refuse((*keys, "published", detector), problem)
            for key in ("published", "others"):
                for detector, figures in part.get(key, {}).items():
                    self.check_sets((*keys, key, detector), figures, sets)

    def check_sets(self, place: Keys, figures: dict[str, Any], sets: set[str]) -> None:
        """Raises for figures on another unknown set, or of another metric."""
        for name, values in figures.items():
            if name not in sets:
                self.refuse((*place, name), unknown_name("unknown set here", name, sets))
            for metric in values:
                self.attempt((*place, name, metric), metrics.find, metric)


def _tables(table: dict[str, Any]) -> Iterator[tuple[Keys, dict[str, Any]]]:
    """The top, the tiers and the methods, with the keys that lead to them."""
    places = [((), table), *(((tier,), table.get(tier, {})) for tier in TIERS)]
    for keys, place in places:
        yield keys, place
        yield from _companions(keys, place)
        for i, method in enumerate(place.get("methods", [])):
            yield (*keys, "methods", i), method
            yield from _companions((*keys, "methods", i), method)


def _companions(keys: Keys, table: dict[str, Any]) -> Iterator[tuple[Keys, dict[str, Any]]]:
    for name, companion in table.get("companions", {}).items():
        yield (*keys, "companions", name), companion


def _sets(unknown: Sequence[str] | Mapping[str, Sequence[str]]) -> list[str]:
    groups = unknown.values() if isinstance(unknown, Mapping) else [unknown]
    return [name for names in groups for name in names]
