"""Files left after a full disk, a kill, a signal, or two commands at once."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import openset

from .cases import Case, Refused, command
from .material import DATA, Material, small_network, three_classes

SIZES = (0, 100, 3_000, 30_000)
"""Bytes at which a file can grow no further."""


def cases(material: Material, count: int) -> Iterator[Case]:
    """Every command that writes, and all ways in which it may be stopped."""
    commands = writing(material)
    for name, arguments in commands.items():
        for size in SIZES:
            attempt = partial(on_a_full_disk, material.run, arguments, size)
            yield Case("lost work: full disk", f"{name}, {size} bytes", attempt, seconds=20)
        for call in range(6):
            for after in (False, True):
                attempt = partial(killed_at_a_rename, material, name, arguments, call, after)
                moment = f"{name}, {'after' if after else 'before'} rename {call}"
                kind = "lost work: killed at a rename"
                yield Case(kind, moment, attempt, refusable=False, seconds=20)
        for mask in (0o022, 0o077, 0o027):
            attempt = partial(has_modes, material.run, arguments, mask)
            kind = "lost work: file modes"
            yield Case(kind, f"{name}, umask {mask:03o}", attempt, refusable=False, seconds=20)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        for name in ("train", "evaluate"):
            attempt = partial(signalled, material.run, name, number)
            given = {"refusable": False, "seconds": 60.0}
            yield Case("lost work: signals", f"{name}, {number.name}", attempt, **given)
    for name, attempt in LEFT.items():
        attempt = partial(attempt, material)
        yield Case("lost work: left behind", name, attempt, refusable=False, seconds=60)


def writing(material: Material) -> dict[str, tuple]:
    """Commands that write, each run in a folder with a copy of the run."""
    known = (DATA, "--known-classes", "0-5", "--network", "cnn:widths=4+8,hidden=16")
    unknown = ("--unknown", "gaussian-noise,limit=50")
    return {
        "train": ("train", *known, "--epochs", 1, "--out", "new"),
        "fit": ("fit", "run", "--detector", "energy", "--accept", "0.9"),
        "evaluate": ("evaluate", "run", "--detector", "energy", *unknown, "--out", "results"),
        "predict": ("predict", "run", material.pictures, "--out", "labels.csv"),
        "report": ("report", "results"),
    }


def prepared(run: Path, arguments: tuple) -> None:
    """A copy of the run here, and results where the command reads them or writes over them."""
    shutil.copytree(run, "run")
    if "results" in arguments:
        unknown = ("--unknown", "gaussian-noise,limit=40")
        command("evaluate", "run", "--detector", "energy", *unknown, "--out", "results")
    if "labels.csv" in arguments:
        Path("labels.csv").write_text("path,label,score,threshold\n")


def listed() -> dict[str, int]:
    """Lists the files of the current folder with their sizes in bytes."""
    files = (p for p in Path().rglob("*") if p.is_file())
    return {str(p): p.stat().st_size for p in files}


def on_a_full_disk(run: Path, arguments: tuple, size: int) -> str | None:
    """One sentence, and nothing half-written."""
    prepared(run, arguments)
    before = listed()
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        command(*arguments)
    except Refused as error:
        left = half_written(before)
        if left:
            return f"{left} are left; {error}"
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return None


def half_written(before: dict[str, int]) -> list[str]:
    """New or changed files, but for an unfinished training, which can be resumed."""
    return [k for k, n in listed().items() if before.get(k) != n and ".unfinished/" not in k]


def killed_at_a_rename(
    material: Material, name: str, arguments: tuple, call: int, after: bool
) -> str | None:
    """Old or new is there whole, and the next command works."""
    prepared(material.run, arguments)
    pid = os.fork()
    if pid == 0:
        _die_at_a_rename(call, after)
        with contextlib.suppress(BaseException):
            command(*arguments)
        os._exit(0)
    os.waitpid(pid, 0)
    try:
        AFTERWARDS[name](material)
        if name not in ("report", "predict"):
            again = (*arguments, "--resume") if name == "train" and _unfinished() else arguments
            if not (name == "train" and Path("new").exists()):
                command(*again)
    except Exception as error:
        return f"{type(error).__name__} afterwards: {error}"
    return None


def _unfinished() -> bool:
    return any(Path().glob(".*.unfinished"))


def _die_at_a_rename(call: int, after: bool) -> None:
    """Ends this process before or after its n-th rename, as a kill -9 would."""
    seen = [0]
    for name in ("rename", "replace"):
        setattr(os, name, _deadly(getattr(os, name), seen, call, after))


def _deadly(rename: Callable, seen: list[int], call: int, after: bool) -> Callable:
    def move(*given: object, **named: object) -> None:
        at = seen[0]
        seen[0] += 1
        if at == call and not after:
            os._exit(9)
        rename(*given, **named)
        if at == call:
            os._exit(9)

    return move


def _model_works(material: Material) -> None:
    command("predict", "run", material.pictures)


def _results_load(material: Material) -> None:
    if Path("results").exists():
        command("report", "results")


def _csv_is_whole(material: Material) -> None:
    lines = Path("labels.csv").read_text().splitlines()
    if len(lines) not in (1, 13):
        raise AssertionError(f"{len(lines)} lines")


AFTERWARDS: dict[str, Callable[[Material], None]] = {
    "train": lambda material: None,
    "fit": _model_works,
    "evaluate": lambda material: _results_must_load(),
    "predict": _csv_is_whole,
    "report": _results_load,
}


def _results_must_load() -> None:
    openset.Results.load("results")


def has_modes(run: Path, arguments: tuple, mask: int) -> str | None:
    """New files have the modes that the user's umask asks for."""
    os.umask(mask)
    prepared(run, arguments)
    before = {p: p.stat().st_ino for p in Path().rglob("*")}
    command(*arguments)
    new = [p for p in Path().rglob("*") if before.get(p) != p.stat().st_ino]
    wrong = {
        str(p): oct(p.stat().st_mode & 0o777)
        for p in new
        if p.stat().st_mode & 0o777 != (0o777 if p.is_dir() else 0o666) & ~mask
    }
    return f"{wrong}" if wrong else None


def signalled(run: Path, name: str, number: signal.Signals) -> str | None:
    """The command ends soon, quietly, and leaves nothing half-written."""
    shutil.copytree(run, "run")
    known = (DATA, "--known-classes", "0-5", "--network", "cnn:widths=4+8,hidden=16")
    long = {
        "train": ("train", *known, "--epochs", 5000, "--out", "new"),
        "evaluate": ("evaluate", "run", "--unknown", "gaussian-noise,limit=900000", "--out", "o"),
    }
    before = listed()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # A background job is told to ignore these.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os._exit(_status(long[name]))
    time.sleep(2.5)
    os.kill(pid, number)
    began = time.monotonic()
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() - began > 8:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "still runs after 8 s"
        time.sleep(0.02)
    code = os.waitstatus_to_exitcode(ended[1])
    if left := half_written(before):
        return f"ended with {code}; left {left}"
    if number is signal.SIGHUP:
        return None
    return None if code in (130, 143) else f"ended with {code}"


def _status(arguments: tuple) -> int:
    """The exit status of a command; 99 for a traceback."""
    import runpy
    import sys

    sys.argv = ["openset", *map(str, arguments)]
    try:
        runpy.run_module("openset", run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        return 99
    return 0


def partial_model(material: Material) -> str | None:
    """The half-written copy of a killed `fit` is no model."""
    shutil.copytree(material.run, "run")
    left = Path("run/models/.energy.0a1b2c3d.partial")
    shutil.copytree("run/models/energy", left)
    command("predict", "run", material.pictures)
    unknown = ("--unknown", "gaussian-noise,limit=50")
    command("evaluate", "run", *unknown, "--out", "results")
    text = Path("results/results.csv").read_text()
    return "it was evaluated" if "partial" in text else None


def two_resumes(material: Material) -> str | None:
    """Of two processes that resume one run, one goes on and the other says why it does not."""
    with contextlib.suppress(ArithmeticError):
        _long_training(stops=True)
    gate = time.time() + 0.5
    pids = []
    for i in range(2):
        pid = os.fork()
        if pid == 0:
            time.sleep(max(0, gate - time.time()))
            _resume(i)
        pids.append(pid)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
    epochs = [json.loads(line)["epoch"] for line in Path("run/log.jsonl").read_text().splitlines()]
    if epochs != list(range(1, len(epochs) + 1)):
        return f"the log has epochs {epochs}; ended with {codes}"
    return None if codes in ([0, 2], [0, 0]) else f"ended with {codes}"


def _long_training(stops: bool = False) -> None:
    from .material import Stopping

    objective = Stopping(small_network())
    objective.stops = stops
    how = {"epochs": 40, "batch_size": 8, "lr": 0.05, "progress": False}
    openset.train(objective, [three_classes(240)], folder="run", resume=not stops, **how)


def _resume(number: int) -> None:
    try:
        _long_training()
    except ValueError:
        os._exit(2)
    except BaseException:
        os._exit(1)
    os._exit(0)


def interrupted_save(material: Material) -> str | None:
    """A run whose models folder holds what a killed process left can be fitted again."""
    shutil.copytree(material.run, "run")
    for name in (".energy.0a1b2c3d.partial", ".energy.0a1b2c3d.old"):
        Path("run/models", name).mkdir()
    command("fit", "run", "--detector", "energy", "--accept", "0.9")
    command("predict", "run", material.pictures)
    return None


LEFT: dict[str, Callable[[Material], str | None]] = {
    "a partial model": partial_model,
    "empty partial folders": interrupted_save,
    "two resumes at once": two_resumes,
}
