"""How an error reads on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from rich.markup import escape


class Paused(Exception):
    """Training stopped at a checkpoint because its time was up; resume it to go on."""


def one_line(error: Exception) -> str:
    """An error as one line of text, without markup.

    Example:
        >>> one_line(FileNotFoundError(2, "No such file or directory", "a.png"))
        'a.png: No such file or directory'
    """
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return escape(f"{place}{error.strerror}")
    return escape(" ".join(str(error).split()))


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest names that do."""
    known = sorted(known)
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    listed = ", ".join(known[:30]) + (f" and {len(known) - 30} more" if len(known) > 30 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {listed}."
    return f"unknown {kind} {name!r}: {hint}"
