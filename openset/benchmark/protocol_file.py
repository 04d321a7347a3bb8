"""What a protocol's file may hold; every error names the line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from torch import nn

from openset import detectors
from openset.benchmark.toml_lines import TomlFile
from openset.data.sources import DataName
from openset.errors import unknown_name
from openset.evaluation import metrics
from openset.model.tune import refuse_leak
from openset.networks import AUTOENCODERS, DENSE, LIBRARIES, NETWORKS
from openset.objectives import OBJECTIVES
from openset.spec import parse
from openset.training.settings import Settings

LEFT_OUT = "left-out"
"""Names, among the unknown sets, the test images of the classes that a split leaves out."""


KNOWN = "known"
"""Stands, among the published figures, for those that need no unknown set, such as accuracy."""


METHOD: dict[str, tuple[type, ...]] = {
    "network": (str,),
    "objective": (str,),
    "weights": (str,),
    "training": (dict,),
    "detectors": (list,),
    "peers": (list,),
    "tune": (dict,),
    "published": (dict,),
    "companions": (dict,),
}
"""What a method may set, and of which type; a protocol of one method sets it at the top."""


COMPANION = {key: METHOD[key] for key in ("network", "objective", "training")}
"""What a companion may set."""


TIER: dict[str, tuple[type, ...]] = {
    **METHOD,
    "data": (str,),
    "splits": (list,),
    "unknown": (list, dict),
    "size": (int, list),
    "channels": (int,),
    "valid": (float, int),
    "accept": (float, int),
    "seeds": (int,),
    "metrics": (list,),
    "notes": (list,),
    "others": (dict,),
    "methods": (list,),
}
"""What a tier may set; the top of the file sets what all tiers share."""


TIERS = ("quick", "paper")


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A table with changes; settings of a training change one by one, all else as a whole."""
    both = {**table, **changes}
    both["training"] = {**table.get("training", {}), **changes.get("training", {})}
    return both


def settings(table: Mapping[str, Any]) -> Settings:
    """The training settings of a table."""
    return Settings().changed(
        {key: tuple(x) if isinstance(x, list) else x for key, x in table.items()}
    )


def peers_installed() -> bool:
    """Whether the detectors of another library can be run beside ours."""
    return find_spec("pytorch_ood") is not None


def check(file: TomlFile) -> None:
    """Raises for what is no protocol; the error names the line."""
    top = {"title": (str,), "source": (str,), **TIER, **dict.fromkeys(TIERS, (dict,))}
    _check_keys(file, (), file.table, top)
    for tier in TIERS:
        _check_keys(file, (tier,), file.table.get(tier, {}), TIER)
    for keys, table in _tables(file.table):
        _check_names(file, keys, table)
    shared = {key: value for key, value in file.table.items() if key not in TIERS}
    for tier in [t for t in TIERS if t in file.table] or [""]:
        whole = merged(shared, file.table.get(tier, {}))
        for key in ("title", "data", "unknown"):
            if key not in whole:
                file.refuse((tier,), f"{key} is missing; every protocol needs one")
        for i, changes in enumerate(whole.get("methods", [{}])):
            keys = ("methods", i) if "methods" in whole else (tier,)
            _check_method(file, keys, merged(whole, changes))
            _check_tuning(file, keys, merged(whole, changes))
        if LEFT_OUT in _sets(whole["unknown"]) and not whole.get("splits"):
            file.refuse((), f"{LEFT_OUT} needs splits: lists of known classes", LEFT_OUT)
    _check_figures(file)


def _tables(table: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """The top, the tiers and the methods, with the keys that lead to them."""
    places = [((), table), *(((tier,), table.get(tier, {})) for tier in TIERS)]
    for keys, place in places:
        yield keys, place
        yield from _companions(keys, place)
        for i, method in enumerate(place.get("methods", [])):
            yield (*keys, "methods", i), method
            yield from _companions((*keys, "methods", i), method)


def _companions(keys: tuple, table: dict[str, Any]) -> Iterator[tuple[tuple, dict[str, Any]]]:
    for name, companion in table.get("companions", {}).items():
        yield (*keys, "companions", name), companion


def _check_keys(
    file: TomlFile, keys: tuple, table: Any, allowed: Mapping[str, tuple[type, ...]]
) -> None:
    for key, value in table.items():
        if key not in allowed:
            file.refuse((*keys, key), unknown_name("key", key, allowed))
        if not isinstance(value, allowed[key]) or isinstance(value, bool):
            kinds = " or ".join(KINDS[kind] for kind in allowed[key])
            file.refuse((*keys, key), f"{key} is {value!r}; expected {kinds}")
    for i, method in enumerate(table.get("methods", [])):
        _check_keys(file, (*keys, "methods", i), method, METHOD)
    for place, companion in _companions(keys, table):
        if not isinstance(companion, dict) or "network" not in companion:
            file.refuse(place, "a companion is a table with a network and its training")
        _check_keys(file, place, companion, COMPANION)


KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


def _check_names(file: TomlFile, keys: tuple, table: dict[str, Any]) -> None:
    """Raises for a detector, metric, network, objective or setting that does not exist."""

    def attempt(key: str, value: Any, make: Callable[[Any], object]) -> None:
        try:
            make(value)
        except ValueError as error:
            file.refuse((*keys, key), error, value)

    for name in table.get("peers", []) if peers_installed() else []:
        attempt("peers", name, detectors.build)
    for name in table.get("metrics", []):
        attempt("metrics", name, metrics.find)
    if "network" in table:
        known = NETWORKS | DENSE | LIBRARIES | AUTOENCODERS
        attempt("network", table["network"], _find_in("network", known))
    if "objective" in table:
        attempt("objective", table["objective"], _find_in("objective", OBJECTIVES))
    for key, value in table.get("training", {}).items():
        try:
            settings({"milestones": [1], key: value})
        except (ValueError, TypeError) as error:
            file.refuse((*keys, "training", key), f"{key} is {value!r}: {error}")
    size = table.get("size", [1, 1])
    if isinstance(size, list) and [type(side) for side in size] != [int, int]:
        file.refuse((*keys, "size"), f"size is {size}; expected a side, or [height, width]")
    if not table.get("seeds", 1) > 0:
        file.refuse((*keys, "seeds"), f"seeds is {table['seeds']}; expected at least 1")


def _find_in(kind: str, known: Mapping[str, Any]) -> Callable[[str], None]:
    def find_name(spec: str) -> None:
        name = parse(spec)[0]
        if name not in known and "." not in name:
            raise ValueError(unknown_name(kind, name, known))

    return find_name


def _check_method(file: TomlFile, keys: tuple, table: dict[str, Any]) -> None:
    for key in ("network", "detectors"):
        if not table.get(key):
            file.refuse(keys, f"{key} is missing; every method needs one")
    companions = dict.fromkeys(table.get("companions", {}), nn.Identity())
    for name in table["detectors"]:
        try:
            detectors.build(name, load=lambda run: nn.Identity(), **companions)
        except ValueError as error:
            file.refuse((*keys, "detectors"), error, name)
    for place, whole in ((keys, table), *_companions(keys, table)):
        try:
            settings(whole.get("training", {}))
        except ValueError as error:
            file.refuse((*place, "training"), error)


def _check_tuning(file: TomlFile, keys: tuple, table: dict[str, Any]) -> None:
    """Raises for tuning of a detector that is not there, or on unknown data of the test."""
    for detector, sets in table.get("tune", {}).items():
        place = (*keys, "tune", detector)
        if detector not in table["detectors"]:
            file.refuse(place, unknown_name("detector here", detector, table["detectors"]))
        if not isinstance(sets, list):
            file.refuse(place, f"tune is {sets!r}; expected a list of unknown sets")
        try:
            refuse_leak(sets, _sets(table["unknown"]))
        except ValueError as error:
            file.refuse(place, error)


def _check_figures(file: TomlFile) -> None:
    """Raises for published figures of a detector, set or metric that the protocol does not have."""
    run = {name for _, table in _tables(file.table) for name in table.get("detectors", [])}
    unknown = [table["unknown"] for _, table in _tables(file.table) if "unknown" in table]
    sets = {KNOWN, *(str(DataName.parse(name)) for each in unknown for name in _sets(each))}
    sets |= {group for each in unknown if isinstance(each, dict) for group in each}
    for keys, table in _tables(file.table):
        for key in ("published", "others"):
            for detector, figures in table.get(key, {}).items():
                place = (*keys, key, detector)
                if key == "published" and detector not in run:
                    hint = "; methods that are not run go under [others]"
                    file.refuse(place, unknown_name("detector here", detector, run) + hint)
                _check_detector_figures(file, place, figures, sets)


def _check_detector_figures(file: TomlFile, place: tuple, figures: Any, sets: set[str]) -> None:
    for name, values in figures.items():
        if name not in sets:
            file.refuse((*place, name), unknown_name("unknown set here", name, sets))
        for metric, value in values.items():
            try:
                metrics.find(metric)
            except ValueError as error:
                file.refuse((*place, name, metric), error)
            if not isinstance(value, float | int) or not 0 <= value <= 1:
                problem = f"{metric} is {value!r}; expected a share in 0…1"
                file.refuse((*place, name, metric), problem)


def _sets(unknown: Sequence[str] | Mapping[str, Sequence[str]]) -> list[str]:
    groups = unknown.values() if isinstance(unknown, Mapping) else [unknown]
    return [name for names in groups for name in names]
