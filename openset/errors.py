"""How an error reads on the command line."""

from __future__ import annotations

from rich.markup import escape


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
