"""Changes of files and values, drawn by hypothesis from a seed, the same on every machine."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from .runner import MARKER

Keys = tuple[str | int, ...]
"""The way to a value in JSON."""

Edit = tuple[Any, ...]
"""A change as plain values, so that thousands of them take no room."""

CODE = (
    f"sympy.core.sympify:sympify:__import__('os').system('touch {MARKER}')",
    "attack_payload:factory",
    "attack_payload.deeper:factory",
    "attack_payload:factory:a=1",
    f"os:system:touch {MARKER}",
    f"subprocess:getoutput:touch {MARKER}",
    f"builtins:exec:open('{MARKER}','w')",
    "pytorch-ood:attack_payload",
    "timm:attack_payload",
    "torchvision:attack_payload",
    "vmdls:autoencoder={decoy}",
    "{decoy}",
    "gemos:density=attack_payload:factory",
    "fusion:attack_payload:factory",
)
"""Strings that would run code, or open a run, where they are taken for names."""

ODD = (
    *(None, True, False, 0, -1, 1, 5, 10**6, 60_000, 10**12, 2**63, 10**400, 1e30, -1e30, 1e-300),
    *(float("nan"), float("inf"), float("-inf"), "", "x", "../../x", "/etc/passwd", "a/b", "\x00"),
    *("\x1b[31m", "=1+1", "é\ud800", [], {}, [[]], [None], [1e30], [0] * 1000, {"": None}),
    *({"kind": "detector"}, {"kind": "network", "spec": None}, {"name": "x"}),
)


def draws(strategy: st.SearchStrategy, count: int, seed: int = 0) -> list[Any]:
    """As many values of a strategy, or all that it has."""
    found: list[Any] = []

    @seeded(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found[:count]


def of_bytes() -> st.SearchStrategy[list[Edit]]:
    """One to three changes of a file's bytes; half of them lie near its start."""
    place = st.one_of(st.integers(0, 600), st.floats(0, 1, exclude_max=True))
    length = st.sampled_from([1, 2, 8, 64, 1024])
    one = st.one_of(
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
        st.tuples(st.just("cut"), place),
        st.tuples(st.just("drop"), place, length),
        st.tuples(st.just("zero"), place, length),
        st.tuples(st.just("ones"), place, length),
        st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=16)),
        st.tuples(st.just("repeat"), place, length),
        st.tuples(st.just("append"), st.just(0), st.binary(min_size=1, max_size=16)),
        st.tuples(st.just("all"), st.just(0), st.sampled_from([b"", b"\0", b"{}", b"\xff\xfe"])),
    )
    return st.lists(one, min_size=1, max_size=3)


def edited(data: bytes, edits: list[Edit]) -> bytes:
    """The bytes after the changes."""
    for kind, place, *rest in edits:
        at = min(int(place * len(data)) if isinstance(place, float) else place, len(data))
        data = _edit(data, kind, at, rest[0] if rest else None)
    return data


def editing(edits: list[Edit]) -> Callable[[bytes], bytes]:
    """`edited` with these changes."""
    return lambda data: edited(data, edits)


def _edit(data: bytes, kind: str, at: int, how: Any) -> bytes:
    if kind == "flip":
        return data[:at] + bytes(b ^ (1 << how) for b in data[at : at + 1]) + data[at + 1 :]
    if kind in ("zero", "ones"):
        size = len(data[at : at + how])
        return data[:at] + (b"\0" if kind == "zero" else b"\xff") * size + data[at + how :]
    if kind == "drop":
        return data[:at] + data[at + how :]
    if kind == "repeat":
        return data[:at] + data[at : at + how] * 2 + data[at + how :]
    if kind == "insert":
        return data[:at] + how + data[at:]
    return {"cut": data[:at], "append": data + (how or b""), "all": how or b""}[kind]


def of_json(value: Any) -> st.SearchStrategy[Edit]:
    """One change of a JSON value: another value somewhere, a key lost, added, twice, or depth."""
    places = list(_places(value))
    inner = [keys for keys in places if keys and isinstance(keys[-1], str)]
    odd = st.one_of(
        st.sampled_from(ODD), st.sampled_from(CODE), st.floats(), st.integers(), st.text(max_size=9)
    )
    return st.one_of(
        st.tuples(st.just("set"), st.sampled_from(places), odd),
        st.tuples(st.just("lose"), st.sampled_from(inner or places)),
        st.tuples(st.just("add"), st.sampled_from(inner or places), odd),
        st.tuples(st.just("twice"), st.sampled_from(inner or places), odd),
        st.tuples(st.just("swap"), st.sampled_from(places), st.sampled_from(places)),
        st.tuples(st.just("deep"), st.sampled_from(places), st.sampled_from([99, 2000, 99_999])),
    )


def with_code(value: Any) -> list[Edit]:
    """A string that would run code, at each place where a text, a table or nothing stands."""
    places = [k for k in _places(value) if k and isinstance(_get(value, k), str | dict | None)]
    return [("set", keys, code) for code in CODE for keys in places]


def with_sizes(value: Any) -> list[Edit]:
    """A size that takes much memory or time, at each place where a whole number stands."""
    places = [k for k in _places(value) if type(_get(value, k)) is int]
    alone = [("set", keys, size) for size in SIZES for keys in places]
    return [*(("sizes", (), size) for size in SIZES), *alone]


SIZES = (10**6, 60_000, 2**31, 10**12, 0, -1, 2**63, 10**400)


def edited_json(value: Any, edit: Edit, decoy: str = "") -> str:
    """The text of a JSON value after a change."""
    kind, keys, *rest = edit
    how = rest[0] if rest else None
    how = how.replace("{decoy}", decoy) if isinstance(how, str) else how
    value = json.loads(json.dumps(value))
    if kind == "sizes":
        for place in [k for k in _places(value) if type(_get(value, k)) is int]:
            _put(value, place, how)
        return json.dumps(value)
    if kind == "deep":
        text = json.dumps(_put(value, keys, HOLE))
        return text.replace(json.dumps(HOLE), "[" * how + "]" * how)
    if kind in ("lose", "add", "twice") and keys:
        place = _get(value, keys[:-1])
        if kind == "lose":
            del place[keys[-1]]
        else:
            place["another" if kind == "add" else HOLE] = how
        return json.dumps(value).replace(json.dumps(HOLE), json.dumps(keys[-1]))
    new = json.loads(json.dumps(_get(value, how))) if kind == "swap" else how
    return json.dumps(_put(value, keys, new))


HOLE = "the hole in the text"


def keeps_kind(value: Any, edit: Edit) -> bool:
    """Whether a change leaves a value of the same kind, so that nothing tells it from a true one.

    A setting may also be null or left out, which means its default.
    """
    kind, keys, *rest = edit
    optional = "settings" in keys or keys[-1:] in {("threshold",), ("classes",), ("adapter",)}
    if kind == "lose":
        return optional
    if kind not in ("set", "swap"):
        return False
    new = _get(value, rest[0]) if kind == "swap" else rest[0]
    return (new is None and optional) or _alike(_get(value, keys), new)


def _alike(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, int | float) and not isinstance(new, bool):
        return abs(new) < 1e300  # Neither NaN nor infinite.
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return all(map(_alike, old, new))
    return type(old) is type(new) and not isinstance(old, dict | list)


def _places(value: Any, keys: Keys = ()) -> Iterator[Keys]:
    yield keys
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*keys, key))
    if isinstance(value, list):
        for i, item in enumerate(value[:4]):
            yield from _places(item, (*keys, i))


def _get(value: Any, keys: Keys) -> Any:
    for key in keys:
        value = value[key]
    return value


def _put(value: Any, keys: Keys, new: Any) -> Any:
    if not keys:
        return new
    _get(value, keys[:-1])[keys[-1]] = new
    return value


def edited_toml(value: Any, decoy: str, edit: Edit) -> str:
    """The text of a TOML file after a change; what TOML cannot hold stays JSON, and is no TOML."""
    text = edited_json(value, edit, decoy)
    try:
        return toml(json.loads(text))
    except (RecursionError, AttributeError):
        return f"title = {text}"


def toml(table: dict[str, Any]) -> str:
    """A table as TOML, its inner tables inline."""
    return "".join(f"{_key(key)} = {_inline(value)}\n" for key, value in table.items())


def _key(key: str) -> str:
    return key if key.isalnum() and key.isascii() else json.dumps(key)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {_inline(item)}" for key, item in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


class Payload:
    """An object that leaves the mark when a pickle of it is loaded."""

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {MARKER}",)
