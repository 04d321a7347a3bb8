"""Names of the user's files and classes, made safe for a screen, a file and a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Python's stand-ins for bytes of a file's name that are not UTF-8; no file can hold them."""

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""The start of a cell that a spreadsheet would run, behind any number of apostrophes."""

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def printable(text: str) -> str:
    r"""A text for the screen: control characters and what steers a terminal are spelled out.

    Example:
        >>> printable("cat\x1b[31m\n\udcff.png")
        'cat\\x1b[31m\\n\\xff.png'
    """
    return "".join(c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else _spelled(c) for c in text)


def few(names: Iterable[object], most: int = 4) -> str:
    """The first names of many, and how many more there are, each cut to 60 characters.

    Example:
        >>> few("abcdef")
        'a, b, c, d and 2 more'
    """
    texts = [printable(str(name)) for name in names]
    cut = [text if len(text) <= 60 else f"{text[:59]}…" for text in texts[:most]]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return (", ".join(cut) or "none") + more


def encodable(text: str) -> str:
    r"""A text that UTF-8 can hold: bytes of a file's name that are not UTF-8 are spelled out.

    Example:
        >>> encodable("é\udcff.png")
        'é\\xff.png'
    """
    return _SURROGATE.sub(lambda found: _spelled(found[0]), text)


def _spelled(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # As PEP 383 escapes the bytes 0x80…0xff.
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def csv_line(cells: Iterable[object]) -> str:
    r"""One line of CSV, with its line end, that a spreadsheet shows and never runs.

    Texts that begin like a formula get an apostrophe before them, as OWASP advises; `plain_cell`
    takes it off. Numbers stay as they are, also those in texts.

    Example:
        >>> csv_line(["=1+1.png", "a\rb", "-1", -1.5])
        '\'=1+1.png,"a\rb",-1,-1.5\n'
    """
    line = io.StringIO()
    # Only what the line end holds is quoted: with "\n" a bare "\r" would split the row.
    writer = csv.writer(line, lineterminator="\r\n")
    writer.writerow([_guarded(encodable(c)) if isinstance(c, str) else c for c in cells])
    return line.getvalue().removesuffix("\r\n") + "\n"


def _guarded(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def plain_cell(cell: str) -> str:
    """The text that `csv_line` was given, from the cell that a CSV reader gives.

    Example:
        >>> plain_cell("'=1+1.png"), plain_cell("'tis.png")
        ('=1+1.png', "'tis.png")
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
