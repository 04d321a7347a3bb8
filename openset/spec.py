"""One string names a thing and its settings: `gemos:components=4,density=pca`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from openset.errors import unknown_name


def as_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """One name or several, as a tuple; a text is one name and not its letters."""
    return (names,) if isinstance(names, str) else tuple(names)


def parse(spec: str, table: Container[str] | None = None) -> tuple[str, list[Any], dict[str, Any]]:
    """Splits `name:first,key=value` into the name, the bare values and the keyed ones.

    A value is read as int, float, bool or None where it looks like one; `a+b` is a tuple. The name
    of something to import keeps its own colon: `package.module:Name:key=value`.

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
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if equals:
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
    if "+" in text:
        return tuple(_value(part) for part in text.split("+"))
    return text


def build(kind: str, table: Mapping[str, Callable[..., Any]], spec: str, **given: Any) -> Any:
    """Makes what `spec` names from a table of factories, or imports `package.module:Name`.

    Args:
        kind: What the table holds, for the error messages, such as "detector".
        table: Name to class or function.
        spec: The name with its settings.
        given: Arguments that the caller supplies; only those that the factory takes are passed.

    Raises:
        ValueError: For an unknown name or setting, with the nearest ones that exist.
    """
    name, bare, keyed = parse(spec, table)
    return call(kind, name, look_up(kind, table, name), bare, keyed, given)


def call(
    kind: str, name: str, factory: Callable[..., Any], bare: list, keyed: dict, given: dict
) -> Any:
    """Calls a factory with settings from a spec, naming the setting that it does not take."""
    own = parameters_of(factory)
    takes_any = len(own) < len(inspect.signature(factory).parameters)
    for key in keyed:
        if key not in own and not takes_any:
            raise ValueError(unknown_name(f"setting of {kind} {name}", key, own))
    places = [key for key, its in own.items() if its.kind is not its.KEYWORD_ONLY]
    check_kinds(f"{kind} {name}", factory, {**dict(zip(places, bare, strict=False)), **keyed})
    given = {key: value for key, value in given.items() if key in own and key not in keyed}
    try:
        return factory(*bare, **keyed, **given)
    except TypeError as error:
        raise ValueError(f"{kind} {name}: {error}") from error


def check_kinds(what: str, factory: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Raises for a setting that its parameter's annotation does not allow."""
    made = factory.__init__ if isinstance(factory, type) else inspect.unwrap(factory)
    try:
        hints = get_type_hints(made)
    except (NameError, TypeError):  # What a third party's annotations name need not be importable.
        return
    for key, value in settings.items():
        if key in hints and not allows(hints[key], value):
            raise ValueError(f"{key} of {what} is {value!r}; expected {shown(hints[key])}")


def allows(hint: Any, value: Any) -> bool:
    """Whether a value, as text or a TOML file gives it, may stand where the annotation does.

    Example:
        >>> allows(float | None, 1), allows(int, 2.5), allows(Sequence[int], (1, 2))
        (True, False, True)
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(allows(one, value) for one in inner)
    if hint is Any:
        return True
    if origin is Literal:
        return value in inner
    if isinstance(origin, type) and issubclass(origin, Sequence):
        if isinstance(value, list | tuple):
            return all(allows(inner[0], one) for one in value)
        return isinstance(value, str) and inner[0] is str  # `as_names` makes a sequence of it.
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def shown(hint: Any) -> str:
    """An annotation for people: `int | None`, `Sequence[str]`, `'full' or 'diag'`."""
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return re.sub(r"[a-z_]+\.", "", hint.__name__ if isinstance(hint, type) else str(hint))


def look_up(kind: str, table: Mapping[str, Callable[..., Any]], name: str) -> Callable[..., Any]:
    """The factory of that name, imported if the name is `package.module:Name`."""
    if name in table:
        return table[name]
    module, colon, _ = name.partition(":")
    if colon and _findable(module):
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
    return "." in module or importlib.util.find_spec(module) is not None


def _look_here() -> None:
    """Lets modules of the current folder be found, after all that are installed.

    A command that was installed as a script would not find them otherwise.
    """
    here = os.getcwd()
    if not {"", here}.intersection(sys.path):
        sys.path.append(here)


def import_factory(path: str) -> Callable[..., Any]:
    """What `package.module:Name`, or `module:Name` of the current folder, names, imported."""
    module, _, attribute = path.partition(":")
    _look_here()
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot import {path!r}: {error}; give package.module:Name of something importable"
        ) from error


def check_trust(path: str, trust: Sequence[str]) -> None:
    """Refuses to import `package.module:Name` for a file, unless its package is trusted.

    What a file names could be any function, so none outside openset runs by itself.
    """
    module = path.partition(":")[0]
    if not any(f"{module}.".startswith(f"{package}.") for package in trust):
        raise ValueError(
            f"{path} is code outside openset, which runs when it is imported; "
            f"if you trust it, pass trust=[{module.partition('.')[0]!r}]"
        )
