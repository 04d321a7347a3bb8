"""Errors in one sentence, for the command line."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from difflib import get_close_matches

from openset.text import printable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of the system for a file that finds no more room."""

LIBRARIES = ("safetensors", "safetensors_rust", "pyarrow", "PIL", "cyclopts")
"""Packages whose own errors say what is wrong with a file or an argument."""

LOST = 75
"""Exit code of a process that ends because another one did, whose message says why."""

STARTED = "OPENSET_STARTED"
"""The environment variable of a process that another one started, which speaks for it."""

TRACEBACK = "OPENSET_TRACEBACK"
"""The environment variable that, where it is set, shows where an error came from."""


class LackingError(ValueError):
    """A network lacks what a detector reads: a layer, a linear head, the features before it."""


class Paused(Exception):
    """Work stopped at a checkpoint because its time was up; resume it to go on.

    Args:
        progress: The work that is done, in words.
        again: Advice on resuming it.
    """

    def __init__(self, progress: str, again: str):
        super().__init__(f"{progress}; {again}")
        self.progress, self.again = progress, again


class Lost(Exception):
    """Another process, with which this one shares its work, has ended."""


def one_line(error: BaseException) -> str:
    """An error as one line of text that no terminal obeys.

    Example:
        >>> one_line(FileNotFoundError(2, "No such file or directory", "a.png"))
        'a.png: No such file or directory'
    """
    said = printable(" ".join(str(error).split())) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return printable(_of_system(error))
    if _of_memory(error):
        return f"the memory does not suffice ({said}); take fewer or smaller images or networks"
    if isinstance(error, RecursionError):
        return f"a file or an argument is nested too deeply ({said})"
    if foreseen(error):
        return said
    return (
        f"this is a bug in openset: {type(error).__name__}: {said}; "
        f"set {TRACEBACK}=1 to see where, and please report it"
    )


def foreseen(error: BaseException) -> bool:
    """Whether an error can come of files, arguments or the machine, and not only of a bug."""
    ours = (ValueError, ArithmeticError, OSError, RecursionError, Lost)
    library = type(error).__module__.partition(".")[0] in LIBRARIES
    return isinstance(error, ours) or library or _of_memory(error)


def _of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch says so in a `RuntimeError` of its own."""
    said = str(error) if isinstance(error, RuntimeError) else ""
    full = "allocate memory" in said or "out of memory" in said
    return isinstance(error, MemoryError) or full


def _of_system(error: OSError) -> str:
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    room = ""
    if error.errno in FULL:
        room = "; make room there, or name another place"
        if place.startswith(tempfile.gettempdir()):
            room += " for temporary files by TMPDIR"
    return f"{place}{error.strerror}{room}"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest names that do."""
    known = sorted(known)
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    listed = ", ".join(known[:30]) + (f" and {len(known) - 30} more" if len(known) > 30 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {listed}."
    return f"unknown {kind} {name!r}: {hint}"
