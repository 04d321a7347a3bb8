"""One string names a thing and its settings: `gemos:components=4,density=pca`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from openset.errors import unknown_name


def as_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """One name or several, as a tuple; a text is one name and not its letters."""
    return (names,) if isinstance(names, str) else tuple(names)


def parse(spec: str, table: Container[str] | None = None) -> tuple[str, list[Any], dict[str, Any]]:
    """Splits `name:first,key=value` into the name, the bare values and the keyed ones.

    A value is read as int, float, bool or None where it looks like one; `a+b` is a tuple, and what
    stands in round brackets is one text: `fusion:energy+(knn:k=10,layers=stage1)`. The name of
    something to import keeps its own colon: `package.module:Name:key=value`.

    Args:
        spec: The name with its settings.
        table: The names that there are. One that is none of them and has no dot may be a module
            too, such as `eff:make` for the function `make` of `eff.py`; None knows no such module.

    Example:
        >>> parse("fusion:energy+knn,weights=1+2")
        ('fusion', [('energy', 'knn')], {'weights': (1, 2)})
    """
    name, _, rest = spec.partition(":")
    module = table is not None and name not in table and rest.partition(":")[0].isidentifier()
    if "." in name or module:
        attribute, _, rest = rest.partition(":")
        name = f"{name}:{attribute}"
    bare: list[Any] = []
    keyed: dict[str, Any] = {}
    for part in filter(None, _split(rest, ",")):
        key, equals, value = part.partition("=")
        if equals and "(" not in key:
            keyed[key.strip().replace("-", "_")] = _value(value)
        else:
            bare.append(_value(part))
    return name.strip(), bare, keyed


def _value(text: str) -> Any:
    text = text.strip()
    constants = {"true": True, "false": False, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    parts = _split(text, "+")
    if len(parts) > 1:
        return tuple(_value(part) for part in parts)
    return text[1:-1] if text.startswith("(") and text.endswith(")") else text


def _split(text: str, mark: str) -> list[str]:
    """The parts between the marks that stand in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == mark and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


Trust = Sequence[str] | None
"""Packages that may be imported for a name such as `package.module:Class`; None allows any.

A name that a user typed is trusted as it stands (None). One that a file holds is not: what it names
could be any function.
"""


def build(
    kind: str,
    table: Mapping[str, Callable[..., Any]],
    spec: str,
    *,
    trust: Trust = (),
    **given: Any,
) -> Any:
    """Makes what `spec` names from a table of factories, or imports `package.module:Name`.

    Args:
        kind: Kind of thing in the table, for the error messages, such as "detector".
        table: Name to class or function.
        spec: The name with its settings.
        trust: Packages that may be imported; None any, for a name that a user typed.
        given: Arguments that the caller supplies; only those that the factory takes are passed.

    Raises:
        ValueError: For an unknown name or setting, with the nearest ones that exist.
    """
    name, bare, keyed = parse(spec, table)
    return call(f"{kind} {name}", look_up(kind, table, name, trust), keyed, bare, given)


def call(
    what: str,
    factory: Callable[..., Any],
    keyed: Mapping[str, Any],
    bare: Sequence[Any] = (),
    given: Mapping[str, Any] | None = None,
) -> Any:
    """Calls a factory with settings from a string or a file, each checked against its annotation.

    Args:
        what: Name of the thing to make, for the error messages, such as "detector energy".
        factory: A class or function.
        keyed: Settings by name.
        bare: Settings by position.
        given: Values that the caller supplies for settings that are not there.

    Raises:
        ValueError: For a setting that the factory does not take, that is missing or of a wrong
            kind.
    """
    own = parameters_of(factory)
    takes_any = len(own) < len(inspect.signature(factory).parameters)
    for key in keyed:
        if key not in own and not takes_any:
            raise ValueError(unknown_name(f"setting of {what}", key, own))
    places = [key for key, its in own.items() if its.kind is not its.KEYWORD_ONLY]
    check_kinds(what, factory, {**dict(zip(places, bare, strict=False)), **keyed})
    given = {key: value for key, value in (given or {}).items() if key in own and key not in keyed}
    try:
        return factory(*bare, **keyed, **given)
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from error


@dataclass(frozen=True)
class Range:
    """Bounds of a number, beside its type: `Annotated[float, Range(least=0, below=1)]`."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.above < value < self.below and self.least <= value <= self.most

    def __str__(self) -> str:
        bounds = {"at least": self.least, "above": self.above}
        bounds |= {"at most": self.most, "below": self.below}
        return " and ".join(f"{word} {x:g}" for word, x in bounds.items() if math.isfinite(x))


Count = Annotated[int, Range(least=1)]
"""A setting that counts something."""

Amount = Annotated[float, Range(least=0)]
"""A setting that measures something."""


def check_kinds(what: str, factory: Any, settings: Mapping[str, Any]) -> None:
    """Raises for a setting that its annotation does not allow.

    Args:
        what: Owner of the settings, for the error, such as "a protocol".
        factory: A function, a class with a constructor, a dataclass or a `TypedDict`.
        settings: Values by name, as text, JSON or TOML gives them.
    """
    hints = hints_of(factory)
    for key, value in settings.items():
        if key in hints and not allows(hints[key], value):
            place, hint, value = _innermost(key, hints[key], value)
            raise ValueError(f"{place} of {what} is {value!r:.200}; expected {shown(hint)}")


def _innermost(place: str, hint: Any, value: Any) -> tuple[str, Any, Any]:
    """Finds the value in nested tables that its annotation does not allow, with the path to it."""
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(value, Mapping) and isinstance(origin, type) and issubclass(origin, Mapping):
        for key, one in value.items():
            if not allows(inner[1], one):
                return _innermost(f"{place}.{key}", inner[1], one)
    return place, hint, value


def check_bounds(what: str, factory: Any, given: Sequence[Any], named: Mapping[str, Any]) -> None:
    """Raises for a number beyond the bounds of its annotation, in a call from Python.

    Kinds are left to Python there: an array's number will do where a number is expected.
    """
    hints = hints_of(factory)
    own = inspect.signature(factory).parameters
    for key, value in {**dict(zip(own, given, strict=False)), **named}.items():
        if isinstance(value, int | float) and not _in_bounds(hints.get(key), value):
            raise ValueError(f"{key} of {what} is {value!r}; expected {shown(hints[key])}")


def _in_bounds(hint: Any, value: float) -> bool:
    if get_origin(hint) is Annotated:
        return all(value in bound for bound in get_args(hint)[1:] if isinstance(bound, Range))
    inner = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return all(_in_bounds(one, value) for one in inner)


def hints_of(factory: Any) -> dict[str, Any]:
    """The annotations of a factory's settings by name; empty if they cannot be read."""
    constructed = isinstance(factory, type) and not is_typeddict(factory)
    made = factory.__init__ if constructed else inspect.unwrap(factory)
    try:
        return get_type_hints(made, include_extras=True)
    except (NameError, TypeError):  # What a third party's annotations name need not be importable.
        return {}


def allows(hint: Any, value: Any) -> bool:
    """Whether a value, as text, JSON or TOML gives it, may stand where the annotation does.

    Example:
        >>> allows(float | None, 1), allows(int, 2.5), allows(Sequence[int], (1, 2))
        (True, False, True)
        >>> allows(Annotated[int, Range(least=1)], 0), allows(float, math.nan)
        (False, False)
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(allows(one, value) for one in inner)
    if hint is Any:
        return True
    if origin is Annotated:
        bounds = [bound for bound in inner[1:] if isinstance(bound, Range)]
        return allows(inner[0], value) and all(value in bound for bound in bounds)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            allows(inner[0], key) and allows(inner[1], one) for key, one in value.items()
        )
    if isinstance(origin, type) and issubclass(origin, Sequence):
        if isinstance(value, str):  # `as_names` makes a sequence of it.
            return origin is Sequence and inner[0] is str
        return isinstance(value, list | tuple) and _allows_each(origin, inner, value)
    if hint is float:
        return isinstance(value, int | float) and type(value) is not bool and _is_finite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _allows_each(origin: type, inner: tuple[Any, ...], values: Sequence[Any]) -> bool:
    if origin is tuple and Ellipsis not in inner:
        return len(values) == len(inner) and all(map(allows, inner, values))
    return all(allows(inner[0], one) for one in values)


def _is_finite(value: float) -> bool:
    return abs(value) <= sys.float_info.max


def shown(hint: Any) -> str:
    """An annotation in plain words, for an error or a help text.

    Example:
        >>> shown(Annotated[float, Range(least=0)] | None)
        'a number at least 0 or none'
        >>> shown(Sequence[str])
        'a list of text'
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(shown, inner))
    if origin is Annotated:
        return " ".join([shown(inner[0]), *map(str, inner[1:])])
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a table"
    if origin is tuple and Ellipsis not in inner:
        return f"{len(inner)} times {shown(inner[0])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list of {shown(inner[0])}"
    return KINDS.get(hint) or re.sub(r"[a-z_]+\.", "", getattr(hint, "__name__", str(hint)))


KINDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a list",
    type(None): "none",
}


def look_up(
    kind: str, table: Mapping[str, Callable[..., Any]], name: str, trust: Trust = ()
) -> Callable[..., Any]:
    """The factory of that name, imported if it is `package.module:Name` of a trusted package.

    Raises:
        ValueError: For an unknown name, with the nearest that exist, or for one that is not
            trusted.
    """
    if name in table:
        return table[name]
    module, colon, _ = name.partition(":")
    if colon:
        check_trust(name, trust, kind)
        if _findable(module):
            return import_factory(name)
    raise ValueError(unknown_name(kind, module, table))


def parameters_of(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """A factory's parameters by name, without `*args` and `**options`."""
    gathers = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(factory).parameters.items()
    return {name: parameter for name, parameter in found if parameter.kind not in gathers}


def _findable(module: str) -> bool:
    """Whether there may be such a module; of a package nothing is known before it is imported."""
    _look_here()
    there = "." in module or module in sys.modules  # A script is there as `__main__`.
    return there or importlib.util.find_spec(module) is not None


def _look_here() -> None:
    """Lets modules of the current folder be found, after all that are installed.

    A command that was installed as a script would not find them otherwise.
    """
    here = os.getcwd()
    if not {"", here}.intersection(sys.path):
        sys.path.append(here)


def import_factory(path: str) -> Callable[..., Any]:
    """Imports what `package.module:Name` names, or `module:Name` of the current folder."""
    module, _, attribute = path.partition(":")
    _look_here()
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot import {path!r}: {error}; give package.module:Name of something importable"
        ) from error


def check_trust(path: str, trust: Trust, kind: str = "") -> None:
    """Refuses to import `package.module:Name` for a file, unless its package is trusted."""
    module = path.partition(":")[0]
    if trust is not None and not any(f"{module}.".startswith(f"{package}.") for package in trust):
        raise ValueError(
            f"{path} is code outside openset, which runs when it is imported; "
            f"if you trust it, pass trust=[{module.partition('.')[0]!r}], "
            f"or --trust {module.partition('.')[0]}{f' or --network {path}' * (kind == 'network')}"
        )
