"""On which line of a TOML file a key stands, for error messages; tomllib does not say."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

Keys = tuple[str | int, ...]
"""The way to a value: table and key names, and positions in arrays of tables."""


HEADER = re.compile(r"\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(#.*)?$")


KEY = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[\w.-]+|\s*\.\s*)+?)\s*=""")


class TomlFile:
    """A TOML file with the lines of its keys.

    Args:
        path: The file.

    Raises:
        ValueError: If it cannot be read or is no TOML, naming the line.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8")
            self.table: dict[str, Any] = tomllib.loads(self.text)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no TOML: {error}") from error
        self.lines = line_numbers(self.text)

    def where(self, keys: Sequence[str | int], value: Any = None) -> str:
        """`file:line` of a key, or of a value in the list that stands under it."""
        keys = tuple(keys)
        while keys and keys not in self.lines:
            keys = keys[:-1]
        line = self.lines.get(keys, 1)
        if isinstance(value, str):
            rest = self.text.splitlines()[line - 1 :]
            line += next((i for i, text in enumerate(rest) if value in text), 0)
        return f"{self.path}:{line}"

    def refuse(self, keys: Sequence[str | int], problem: object, value: Any = None) -> NoReturn:
        """Raises the error for what stands under a key."""
        raise ValueError(f"{self.where(keys, value)}: {problem}") from None


def line_numbers(text: str) -> dict[Keys, int]:
    """The line of each table and key, counted from 1.

    Example:
        >>> line_numbers("a = 1\\n[b.c]\\nd = 2")[("b", "c", "d")]
        3
    """
    found: dict[Keys, int] = {}
    counts: Counter[Keys] = Counter()
    table: Keys = ()
    for number, line in enumerate(text.splitlines(), 1):
        header, key = HEADER.match(line), KEY.match(line)
        if key and not (header and line.lstrip().startswith("[")):
            found.setdefault((*table, *_names(key[1])), number)
        elif header and (names := _names(header[2])):
            table = _placed(names, counts)
            if header[1] == "[[":
                counts[table] += 1
                table = (*table, counts[table] - 1)
            found.setdefault(table, number)
    return found


def _placed(names: Keys, counts: Counter[Keys]) -> Keys:
    """A table's name with the position of each array of tables that it lies in."""
    placed: Keys = ()
    for name in names[:-1]:
        placed = (*placed, name)
        if counts[placed]:
            placed = (*placed, counts[placed] - 1)
    return (*placed, *names[-1:])


def _names(text: str) -> Keys:
    """The parts of a dotted key; none for what is no key."""
    try:
        table: Any = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    names: list[str] = []
    while isinstance(table, dict):
        names.append(next(iter(table)))
        table = table[names[-1]]
    return tuple(names)
