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
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from .cases import BAD, Case, judge

MARKER = "PWNED"
"""The file that executed code leaves in a case's folder."""

DECOY = "decoy-run"
"""A run that no file may make openset open."""

ROOM = 3 * 2**30
"""Bytes of address space that a case may take at all."""

WAIT = 10.0
"""Seconds that a case may wait, such as for a pipe, beyond those that it may compute."""

BATCH = 100
"""Cases that one fork tries one after another, where they may share it."""

LOOK = 0.2
"""Seconds without news after which the forks themselves are looked at."""


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
    news: Connection
    many: bool
    since: float

    def told(self) -> dict[str, Any] | None:
        """What it says of its case, if it has said it."""
        try:
            return json.loads(self.news.recv_bytes()) if self.news.poll() else None
        except EOFError:
            return None


def run(cases: Iterable[Case], folder: Path, jobs: int = 2) -> Iterator[Tried]:
    """Tries cases, several at once.

    A fault of a case that shared its fork with others may be one that they left it. It is tried
    again alone, which counts, and the others go on in another fork.
    """
    gc.collect()
    gc.freeze()  # What the forks do not touch they need not copy.
    watch = _Watch(folder, jobs)
    for batch in _batches(cases):
        watch.waiting.append(batch)
        while watch.waiting:
            yield from watch.look()
    while watch.waiting or watch.running:
        yield from watch.look()


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
        if batch and not (case.shares and batch[0].shares and len(batch) < BATCH):
            yield batch
            batch = []
        batch.append(case)
    if batch:
        yield batch


class _Watch:
    """The forks that are at work, and the cases that wait for one."""

    def __init__(self, folder: Path, jobs: int):
        self.folder, self.jobs = folder, jobs
        self.waiting: deque[list[Case]] = deque()
        self.running: dict[int, _Child] = {}
        self.measures: dict[str, Tried | None] = {}
        self.numbers = count()

    def look(self) -> Iterator[Tried]:
        """Starts what may start and yields the results since the last look."""
        while self.waiting and len(self.running) < self.jobs and self._measured(self.waiting[0]):
            self._start(self.waiting.popleft())
        wait([child.news for child in self.running.values()], LOOK)
        for pid, child in list(self.running.items()):
            ended = bool(os.waitpid(pid, os.WNOHANG)[0])
            yield from self._results(pid, child, ended)

    def _measured(self, batch: list[Case]) -> bool:
        """Whether no reference that the cases go by is still at work in another fork."""
        return all(self.measures.get(case.measure, case) for case in batch)

    def _start(self, batch: list[Case]) -> None:
        folder = self.folder / str(next(self.numbers))
        folder.mkdir(parents=True)
        self.measures.update({case.measure: None for case in batch if case.reference})
        news, teller = Pipe(duplex=False)
        pid = os.fork()
        if pid == 0:
            _live(batch, folder, teller)
        teller.close()
        self.running[pid] = _Child(batch, folder, news, len(batch) > 1, time.monotonic())

    def _results(self, pid: int, child: _Child, ended: bool) -> Iterator[Tried]:
        """What a fork has told, and what became of it."""
        while child.cases and (told := child.told()):
            case = child.cases[0]
            tried = self._judged(case, told)
            if tried.outcome in BAD and child.many:
                return self._retire(pid, child, ended)
            child.cases, child.since = child.cases[1:], time.monotonic()
            yield tried
        late = bool(child.cases) and not ended and self._late(child)
        if child.cases and (ended or late) and not child.many:
            yield self._lost(child, late)
            child.cases = []
        if ended or late:
            self._retire(pid, child, ended)
        return None

    def _late(self, child: _Child) -> bool:
        return time.monotonic() - child.since > WAIT + 4 * self._allowed(child.cases[0])

    def _allowed(self, case: Case) -> float:
        measure = self.measures.get(case.measure)
        return case.seconds + (measure.seconds if measure else 0)

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

    def _lost(self, child: _Child, late: bool) -> Tried:
        """The case that a fork died of."""
        outcome = "hang" if late else "traceback"
        if any(child.folder.glob(f"*/{MARKER}")):
            outcome = "code"
        case = child.cases[0]
        tried = Tried(case, outcome, "no answer" if late else "its process died")
        if case.reference:
            self.measures[case.measure] = tried
        return tried

    def _retire(self, pid: int, child: _Child, ended: bool) -> None:
        """Ends a fork; the case that it was at is tried alone, and the rest after it."""
        del self.running[pid]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # Itself, or what it left running.
        if not ended:
            os.waitpid(pid, 0)
        child.news.close()
        shutil.rmtree(child.folder, ignore_errors=True)
        for case in child.cases:
            if case.reference:
                self.measures.pop(case.measure, None)
        parts = [child.cases[:1], child.cases[1:]]
        self.waiting.extendleft(part for part in reversed(parts) if part)


def _live(cases: list[Case], folder: Path, teller: Connection) -> None:
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
            teller.send_bytes(json.dumps(_try(case, place, ran)).encode())
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
