"""What a benchmark's results say of how they came about: settings, machine, time, versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path

import torch

from openset.data import Data
from openset.paper_table import shown_known
from openset.protocol import Method, Protocol
from openset.settings import Settings
from openset.trial import plain, versions


def notes(
    protocol: Protocol,
    data: Data,
    seconds: Mapping[str, float],
    left_out: Iterable[str] = (),
    command: str = "",
) -> dict[str, str]:
    """The facts that stand above the table, in the report and in docs/results.md.

    Args:
        protocol: What was run.
        data: The known data of its first trial.
        seconds: The time that trainings and evaluations took, by "training" and "evaluation".
        left_out: Unknown sets that are not on this machine.
        command: What was run.
    """
    spent = {name: minutes(value) for name, value in seconds.items()}
    found = {
        "Benchmark": protocol.title,
        "Source": protocol.source,
        "Tier": protocol.tier,
        "Command": command,
        "Shown": " ".join(protocol.metrics),
        "Shown known": shown_known(protocol),
        "Images": f"{len(data.train):,} to train, {len(data.valid):,} held out for the "
        f"threshold, {len(data.test):,} to test",
        "Left out": "; ".join(f"{name}: not on this machine" for name in left_out),
        "Notes": " ".join([*protocol.notes, *data.notes]),
        "Training settings": "; ".join(_settings(method) for method in protocol.methods),
        "Date": date.today().isoformat(),
        "Machine": machine(),
        "Wall time": f"{minutes(sum(seconds.values()))} (training {spent['training']}, "
        f"detectors {spent['evaluation']})",
        "Versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }
    return {name: text for name, text in found.items() if text}


def _settings(method: Method) -> str:
    """The training settings that differ from the defaults."""
    default = plain(vars(Settings()))
    now = plain(vars(method.training))
    changed = [f"{key} {value}" for key, value in now.items() if value != default[key]]
    return f"{method.network} ({', '.join(changed)})"


def minutes(seconds: float) -> str:
    """A time for people."""
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
