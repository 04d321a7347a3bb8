"""Cases of an attack, and the outcomes that they may have."""

from __future__ import annotations

import contextlib
import io
import linecache
import runpy
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

GOOD = ("right", "refused", "unclear", "skipped")
"""Unclear: refused by an error that openset did not word, such as that of a library below it."""

BAD = ("wrong", "traceback", "hang", "memory", "code")
OUTCOMES = (*GOOD, *BAD)

SLACK = 64 * 2**20
"""Bytes that reading a changed file may take beyond reading the true one."""

PLENTY = 2**30
"""Bytes that a case may take where memory is not what is tried."""


@dataclass(frozen=True)
class Case:
    """One thing to try.

    Args:
        kind: The row of the table that it counts in.
        name: What is tried, for the list of faults.
        attempt: Runs in an empty folder; gives None where all is right, else what is wrong. A
            `ValueError` is a refusal.
        refusable: Whether a refusal is as good as the right answer.
        reference: Whether it is the row's measure: what memory and time the others may take.
        memory: Bytes that it may take beyond the reference.
        seconds: Of computing that it may take beyond the reference.
        shares: Whether it may run in one process with others, one after another.
        group: Of those that one reference measures; the row's cases by default.
    """

    kind: str
    name: str
    attempt: Callable[[], str | None]
    refusable: bool = True
    reference: bool = False
    memory: int = PLENTY
    seconds: float = 2.0
    shares: bool = False
    group: str = ""

    @property
    def measure(self) -> str:
        """Whose reference it goes by."""
        return self.group or self.kind


class Skipped(Exception):
    """The case needs an extra that is not installed."""


class Refused(Exception):
    """A command ended with one sentence; the error behind it is the cause."""


class Unclean(Exception):
    """A command ended neither well nor with one sentence."""


def command(*arguments: object) -> str:
    """Runs `openset …` within this process and returns its standard output."""
    return _both(*arguments)[0]


def heard(*arguments: object) -> str:
    """Runs `openset …` within this process and returns its standard error."""
    return _both(*arguments)[1]


def _both(*arguments: object) -> tuple[str, str]:
    out, said = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["openset", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            runpy.run_module("openset", run_name="__main__")
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise _refusal(stop, said.getvalue()) from stop.__context__
    finally:
        sys.argv = before
    return out.getvalue(), said.getvalue()


def _refusal(stop: SystemExit, said: str) -> Exception:
    if stop.code == 2 and said.startswith("error: ") and said.count("\n") == 1:
        return Refused(said.removeprefix("error: ").strip())
    return Unclean(f"exit code {stop.code}: {said[-300:]}")


def judge(case: Case) -> tuple[str, str]:
    """The outcome of a case within this process, and what to say of it."""
    try:
        wrong = case.attempt()
    except Skipped as reason:
        return "skipped", str(reason)
    except (Refused, ValueError, OSError) as error:
        said = f"{type(error).__name__}: {error}"
        if _asked_for_memory(error):
            return "memory", said
        if not case.refusable:
            return "wrong", f"refused: {said}"
        cause = error.__cause__ if isinstance(error, Refused) and error.__cause__ else error
        return ("refused" if clear(cause) else "unclear"), said
    except BaseException as error:
        if _asked_for_memory(error):
            return "memory", str(error)
        return "traceback", "".join(traceback.format_exception(error)[-3:])
    return ("wrong", wrong) if wrong else ("right", "")


def clear(error: BaseException) -> bool:
    """Whether openset or its command line worded an error, rather than let it happen."""
    if isinstance(error, OSError) and error.strerror:
        return True
    trace = error.__traceback__
    if trace is None:
        return True
    while trace.tb_next:
        trace = trace.tb_next
    package = str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0]
    line = linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
    return package in ("openset", "cyclopts", __name__.partition(".")[0]) and (
        line.strip().startswith("raise")
    )


def _asked_for_memory(error: BaseException | None) -> bool:
    while error is not None:
        words = str(error).lower()
        told = ("allocate memory", "bad_alloc", "memoryerror")
        if isinstance(error, MemoryError) or any(text in words for text in told):
            return True
        error = error.__cause__ or error.__context__
    return False
