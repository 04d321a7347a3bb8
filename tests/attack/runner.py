"""Runs cases in forks of this process, which holds torch and openset already, and watches them."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from .cases import Case, judge

MARKER = "PWNED"
"""The file that executed code leaves in a case's folder."""

DECOY = "decoy-run"
"""A run that no file may make openset open."""

ROOM = 3 * 2**30
"""Bytes of address space that a case may take at all."""

WAIT = 10.0
"""Seconds that a case may wait, such as for a pipe, beyond those that it may compute."""

BATCH = 20
"""Cases that one fork tries one after another, where they may share it."""


@dataclass(frozen=True)
class Tried:
    """The result of a case: the outcome, a text on it, the growth of memory and the time."""

    case: Case
    outcome: str
    detail: str
    growth: int = 0
    seconds: float = 0.0


@dataclass
class _Child:
    """A fork at work on some cases, the first of which it is at."""

    cases: list[Case]
    folder: Path
    done: int = 0
    since: float = 0.0

    @property
    def report(self) -> Path:
        return self.folder / f"{self.done}.report"


def run(cases: Iterable[Case], folder: Path, jobs: int = 2) -> Iterator[Tried]:
    """Tries cases, several at once; those that a reference measures wait for it."""
    gc.collect()
    gc.freeze()  # What the forks do not touch they need not copy.
    watch = _Watch(folder, jobs)
    for batch in _batches(cases):
        if batch[0].reference:
            yield from watch.finish()
        yield from watch.start(batch)
        if batch[0].reference:
            yield from watch.finish()
    yield from watch.finish()


def apart(function: Callable[..., Any], *arguments: Any) -> None:
    """Calls a function in a fork, so that what it starts does not stay in this process."""
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"{function} failed; the attack needs what it makes")


def _batches(cases: Iterable[Case]) -> Iterator[list[Case]]:
    """Cases that may share a fork, together."""
    batch: list[Case] = []
    for case in cases:
        shares = batch and case.shares and batch[0].shares and case.measure == batch[0].measure
        if batch and (not shares or len(batch) == BATCH):
            yield batch
            batch = []
        batch.append(case)
    if batch:
        yield batch


class _Watch:
    """The forks that are at work."""

    def __init__(self, folder: Path, jobs: int):
        self.folder, self.jobs = folder, jobs
        self.running: dict[int, _Child] = {}
        self.measures: dict[str, Tried] = {}
        self.numbers = count()

    def start(self, cases: list[Case]) -> Iterator[Tried]:
        """Starts a fork, after waiting for a place."""
        while len(self.running) >= self.jobs:
            yield from self._look()
        folder = self.folder / str(next(self.numbers))
        folder.mkdir(parents=True)
        pid = os.fork()
        if pid == 0:
            _live(cases, folder)
        self.running[pid] = _Child(cases, folder, since=time.monotonic())

    def finish(self) -> Iterator[Tried]:
        """Waits for all."""
        while self.running:
            yield from self._look()

    def _look(self) -> Iterator[Tried]:
        """Yields the results since the last look; sleeps for a moment if there are none."""
        before = sum(child.done for child in self.running.values())
        for pid, child in list(self.running.items()):
            yield from self._reports(child)
            ended, status = os.waitpid(pid, os.WNOHANG)
            late = not ended and self._late(child)
            if late:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            if ended or late:
                yield from self._reports(child)
                yield from self._end(pid, child, status, late)
        if before == sum(child.done for child in self.running.values()):
            time.sleep(0.002)

    def _late(self, child: _Child) -> bool:
        case = child.cases[min(child.done, len(child.cases) - 1)]
        return time.monotonic() - child.since > WAIT + 4 * self._allowed(case)

    def _allowed(self, case: Case) -> float:
        measure = self.measures.get(case.measure)
        return case.seconds + (measure.seconds if measure else 0)

    def _reports(self, child: _Child) -> Iterator[Tried]:
        while child.report.exists():
            told = json.loads(child.report.read_text())
            tried = self._judged(child.cases[child.done], told)
            child.done, child.since = child.done + 1, time.monotonic()
            yield tried

    def _judged(self, case: Case, told: dict[str, Any]) -> Tried:
        growth, seconds = told["growth"], told["seconds"]
        outcome, detail = told["outcome"], told["detail"]
        measure = self.measures.get(case.measure)
        more = growth - (measure.growth if measure else 0)
        if told["ran"]:
            outcome, detail = "code", told["ran"][0]
        elif seconds > self._allowed(case):
            outcome, detail = "hang", f"{seconds:.1f} s of computing; {detail}"
        elif more > case.memory:
            outcome, detail = "memory", f"{more / 2**20:.0f} MB; {detail}"
        tried = Tried(case, outcome, detail, growth, seconds)
        if case.reference:
            self.measures[case.measure] = tried
        return tried

    def _end(self, pid: int, child: _Child, status: int, late: bool) -> Iterator[Tried]:
        """Blames the case that a fork died of, and starts another for the rest."""
        del self.running[pid]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # What it left running.
        marked = list(child.folder.glob(f"*/{MARKER}"))
        shutil.rmtree(child.folder, ignore_errors=True)
        if child.done == len(child.cases):
            return
        case, rest = child.cases[child.done], child.cases[child.done + 1 :]
        outcome = "code" if marked else "hang" if late else "traceback"
        yield Tried(case, outcome, "no answer" if late else f"died, status {status}")
        if rest:
            yield from self.start(rest)


def _live(cases: list[Case], folder: Path) -> None:
    """A fork's whole life."""
    os.setpgid(0, 0)
    quiet = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(quiet, handle)
    room = _statm(0) + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ran: list[str] = []
    sys.addaudithook(lambda event, given: _overhear(ran, event, given))
    try:
        for i, case in enumerate(cases):
            ran.clear()
            place = folder / f"case-{i}"
            place.mkdir()
            os.chdir(place)
            written = folder / f"{i}.partial"
            written.write_text(json.dumps(_try(case, place, ran)))
            written.rename(folder / f"{i}.report")
            shutil.rmtree(place, ignore_errors=True)
    finally:
        os._exit(0)


def _try(case: Case, place: Path, ran: list[str]) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5")  # The peak of memory counts from here.
    memory, began = _statm(1), time.process_time()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    outcome, detail = judge(case)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() - began + after.ru_utime - spent.ru_utime
    if (place / MARKER).exists():
        ran.append("it left its mark")
    growth = _peak() - memory
    told = {"outcome": outcome, "detail": detail[-600:], "ran": ran[:1]}
    return {**told, "growth": growth, "seconds": seconds}


def _overhear(ran: list[str], event: str, given: tuple) -> None:
    """Notes commands of the attack that are run and places of it that are opened."""
    runs = ("os.system", "os.exec", "os.spawn", "os.posix_spawn", "subprocess.")
    if event == "open" and DECOY in str(given[0]):
        ran.append(f"opened {given[0]}")
    if event.startswith(runs) and MARKER in repr(given):
        ran.append(f"{event} {given!r:.200}")


def _statm(field: int) -> int:
    """Bytes of address space (0) or of memory (1) of this process."""
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()


def _peak() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024
