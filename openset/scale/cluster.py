"""Slices to the workers of a Ray cluster, each again where its worker died."""

from __future__ import annotations

import importlib
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from openset.errors import one_line
from openset.scale.scorer import Given, Question, Scorer
from openset.scale.slices import Slice

TRIES = 3
"""Times that a slice is given out: what kills so many workers, or cannot be read, stops the run."""

STORE = 200 * 2**20
"""Bytes of shared memory of a cluster started here; models and answers go through it."""

Part = tuple[str, Slice]
"""A slice by the name of its part."""


@dataclass(frozen=True)
class Workers:
    """How many workers there may be, what each takes of Ray's resources, and its device."""

    count: int
    takes: dict[str, float]
    device: str
    threads: int


@contextmanager
def connected() -> Iterator[Any]:
    """Ray, connected to the cluster of `RAY_ADDRESS` or else to one on this machine.

    Raises:
        ValueError: If Ray is not installed, or no cluster answers.
    """
    # Nothing is sent to Ray's makers unless the user says so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's way of from 2.5x on; it warns where neither is chosen.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray: Any = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ValueError(
            "ray is not installed; for --cluster: pip install 'openset[cluster]'"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    own = {} if address else {"include_dashboard": False, "object_store_memory": STORE}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level="error", **own)
    except Exception as error:  # A cluster that is slow to start ends in a bare one.
        raise ValueError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def workers(ray: Any, device: str | None) -> Workers:
    """One worker for each accelerator of the cluster, or for each core where there is none.

    Args:
        ray: The library, connected.
        device: `cpu` or `cuda` where the user asks for it.

    Raises:
        ValueError: For another device, or one that no machine of the cluster has.
    """
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device is {device}; Ray chooses among devices: give cpu or cuda")
    there = ray.cluster_resources()
    cores, accelerators = int(there.get("CPU", 1)) or 1, int(there.get("GPU", 0))
    if device == "cuda" and not accelerators:
        raise ValueError("no machine of the Ray cluster has a GPU; leave --device out")
    if device == "cpu" or not accelerators:
        return Workers(cores, {"num_cpus": 1}, "cpu", 1)
    threads = max(1, cores // accelerators)
    return Workers(accelerators, {"num_cpus": threads, "num_gpus": 1}, "cuda", threads)


def score(
    question: Question, parts: Sequence[Part], device: str | None = None, threads: int | None = None
) -> Iterator[tuple[str, Given]]:
    """The answers of slices by their parts' names, in the order they are finished.

    The maps of a slice come before its table, and once more where its worker died before that.

    Args:
        question: What to ask; its model is on the CPU.
        parts: Slices by name.
        device: As for `workers`.
        threads: Threads that decode in each worker; by default the cores are shared out.

    Raises:
        ValueError: If a slice cannot be answered in `TRIES` attempts.
    """
    with connected() as ray:
        means = workers(ray, device)
        asked = ray.put(replace(question, workers=threads or means.threads))
        kind = ray.remote(Scorer).options(**means.takes)
        waiting, failures, left = deque(parts), Counter(), len(parts)
        busy: dict[Any, tuple[Any, Part | None]] = {}

        def start() -> None:
            worker = kind.remote(asked, means.device)
            busy[worker.ready.remote()] = (worker, None)

        for _ in range(min(means.count, left)):
            start()
        while left:
            # One at a time, so that what is finished is written before the next is looked at.
            (done,), _ = ray.wait([*busy])
            worker, part = busy.pop(done)
            try:
                given = ray.get(done)
            except ray.exceptions.RayError as error:
                refuse_hopeless(error, part, failures)
                waiting.extendleft([part] if part else [])
                ray.kill(worker)
                start()
                continue
            ended = part is None or given[1] is not None
            if not ended:
                busy[worker.more.remote()] = (worker, part)
            elif waiting:
                following = waiting.popleft()
                busy[worker.score.remote(following[1])] = (worker, following)
            if part is not None:
                left -= ended
                yield part[0], given


def refuse_hopeless(error: Exception, part: Part | None, failures: Counter[str]) -> None:
    """Raises for an error that another try would not mend, and after the last try.

    A worker that dies and a store that does not answer are tried again.
    """
    cause = getattr(error, "cause", None)
    where = "at its start" if part is None else f"at {part[1].files[0].name}"
    failures[where] += 1
    if isinstance(cause, ValueError):
        raise cause
    if failures[where] >= TRIES or not isinstance(cause, OSError | None):
        reason = one_line(cause) if isinstance(cause, Exception) else _last_line(error)
        raise ValueError(
            f"a worker failed {where}: {reason}; the same command goes on from what is written"
        ) from error


def _last_line(error: Exception) -> str:
    return next((x.strip() for x in reversed(str(error).splitlines()) if x.strip()), "it died")
