"""The date, the machine, the command and the versions behind a measurement."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "pytorch-ood")
"""Libraries whose versions may change a score."""


def stamp() -> dict[str, str]:
    """The date, and the versions that decide about figures."""
    found = {**versions(("openset", *LIBRARIES)), "Python": platform.python_version()}
    return {
        "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Versions": ", ".join(f"{name} {number}" for name, number in found.items()),
    }


def versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """The versions of those packages that are installed; openset itself may run from a checkout."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line of this process, as one would type it."""
    return shlex.join(["openset", *sys.argv[1:]])


def minutes(seconds: float) -> str:
    """Rounds seconds to text in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def machine() -> str:
    """The processor, its cores and the accelerator."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [x.partition(":")[2] for x in info.read_text().splitlines() if "model name" in x]
        name = models[0].strip() if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {cores} cores{gpu}"
