"""Starts the processes of one job, and ends all of them when one dies."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryFile
from typing import IO, Any

import torch

from openset.errors import LOST, STARTED
from openset.networks.device import choose_device
from openset.processes import joined

PATIENCE = 10.0
"""Seconds that the others have, once one has failed, to end by themselves."""


@contextmanager
def together(devices: int | None = None, device: str | None = None) -> Iterator[torch.device]:
    """Runs a block in as many processes as there shall be devices, and gives each its own.

    Of a process that nobody started as one of several, this starts that many, as its own command
    once more, and exits with their code; the block runs in them. Under `torchrun`, or whatever sets
    the same variables, it runs in those that are there.

    Args:
        devices: The number of processes, one on each accelerator, or all on the CPU where there is
            none; None is one, or as many as were started.
        device: A kind of device, such as `cpu`; of a single process, also a single device.

    Raises:
        ValueError: If there are fewer devices, or `torchrun` started another number.
        SystemExit: Once the processes that it started have ended.
    """
    if devices is not None and devices < 1:
        raise ValueError(f"devices is {devices}; give at least 1")
    rank, count, local = (_told(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not count or count == 1:
        if devices in (None, 1):
            yield choose_device(device)
            return
        own_device(device, devices - 1)
        sys.exit(start(devices))
    if devices not in (None, count):
        raise ValueError(f"devices is {devices}, but {count} processes were started; leave it out")
    own = own_device(device, local or 0)
    if STARTED in os.environ:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(LOST))
    with joined(rank or 0, count, own):
        yield own


def _told(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else None


def own_device(kind: str | None, number: int) -> torch.device:
    """The device of the process of that number on this machine.

    Raises:
        ValueError: If there are fewer devices of that kind, or the kind names a single one.
    """
    found = choose_device(kind)
    if found.type == "cpu":
        return found
    if kind and ":" in kind:
        raise ValueError(f"device is {kind}, which is one; for several give {found.type}")
    there = torch.accelerator.device_count()
    if number >= there:
        raise ValueError(
            f"{number + 1} processes need as many devices, and {found.type} has {there} here; "
            "give fewer --devices, or --device cpu"
        )
    return torch.device(found.type, number)


def start(count: int) -> int:
    """Runs this command in so many processes and returns the exit code for all.

    The first has the screen. Of the others nothing is seen but the message of one that fails.

    Raises:
        ValueError: If one was killed.
    """
    meeting = {
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _free_port(),
        STARTED: 1,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", max(1, _cores() // count)),
    }
    with ExitStack() as stack:
        said = [stack.enter_context(TemporaryFile()) for _ in range(count)]
        running: list[subprocess.Popen] = []
        stack.callback(_end, running)
        for rank, its in enumerate(said):
            running += [_start_one({**meeting, "RANK": rank, "LOCAL_RANK": rank}, its)]
        _wait(running)
        return _outcome([each.returncode for each in running], said)


def _start_one(meeting: Mapping[str, Any], said: IO[bytes]) -> subprocess.Popen:
    environment = {**os.environ, **{name: str(value) for name, value in meeting.items()}}
    silent = {} if meeting["RANK"] == 0 else {"stdout": subprocess.DEVNULL, "stderr": said}
    # In a session of its own, as Ctrl-C is for the one that started it, which ends all.
    return subprocess.Popen(
        [sys.executable, "-m", "openset", *sys.argv[1:]],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        **silent,
    )


def _wait(running: list[subprocess.Popen]) -> None:
    """Waits until all have ended, or for a while after one has failed; then ends the others."""
    end = float("inf")
    while any(each.poll() is None for each in running) and time.monotonic() < end:
        if any(each.returncode for each in running):
            end = min(end, time.monotonic() + PATIENCE)
        time.sleep(0.05)
    _end(running)


def _end(running: list[subprocess.Popen]) -> None:
    """Ends those that still run: they may clean up, and are killed if they do not."""
    left = [each for each in running if each.poll() is None]
    for each in left:
        each.terminate()
    end = time.monotonic() + PATIENCE
    for each in left:
        try:
            each.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()


def _outcome(codes: list[int], said: Sequence[IO[bytes]]) -> int:
    """The exit code of the process that failed, whose message is shown if it has not been."""
    failed = [rank for rank, code in enumerate(codes) if code not in (0, LOST)]
    if not failed:
        return max(codes)
    rank = failed[0]
    if codes[rank] < 0:
        raise ValueError(
            f"process {rank + 1} of {len(codes)} was killed ({signal.Signals(-codes[rank]).name}), "
            "maybe for want of memory; the others were ended and wrote nothing half"
        )
    said[rank].seek(0)
    shutil.copyfileobj(said[rank], sys.stderr.buffer)
    return codes[rank]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
