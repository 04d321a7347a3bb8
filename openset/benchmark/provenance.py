"""The facts that say how a benchmark's results came about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from openset.benchmark.keys import plain
from openset.benchmark.protocol import Method, Protocol
from openset.data import Data, ImageSet
from openset.evaluation.stamp import machine, minutes
from openset.training.settings import Settings


def notes(
    protocol: Protocol,
    data: Data,
    unknown: Mapping[str, ImageSet],
    seconds: Mapping[str, float],
    left_out: Iterable[str] = (),
    command: str = "",
) -> dict[str, str]:
    """The facts that stand above the table, in the report and in docs/results.md.

    Args:
        protocol: The protocol that was run.
        data: The known data of its first trial.
        unknown: Its unknown sets by name.
        seconds: The time that trainings and evaluations took, by "training" and "evaluation".
        left_out: Unknown sets that are not on this machine.
        command: The command line that ran it.
    """
    spent = {name: minutes(value) for name, value in seconds.items()}
    trained = [
        each for method in protocol.methods for each in (method, *method.companions.values())
    ]
    found = {
        "Benchmark": protocol.title,
        "Source": protocol.source,
        "Tier": protocol.tier,
        "Command": command,
        "Images": f"{len(data.train):,} to train, {len(data.valid):,} held out for the "
        f"threshold, {len(data.test):,} to test",
        "Unknown": ", ".join(f"{name} ({len(images):,})" for name, images in unknown.items()),
        "Left out": "; ".join(f"{name}: not on this machine" for name in left_out),
        "Notes": " ".join([*protocol.notes, *data.notes]),
        "Training settings": "; ".join(dict.fromkeys(_settings(each) for each in trained)),
        "Machine": machine(),
        "Wall time": f"{minutes(sum(seconds.values()))} (training {spent['training']}, "
        f"detectors {spent['evaluation']})",
    }
    return {name: text for name, text in found.items() if text}


def _settings(method: Method) -> str:
    """What is trained, for how many epochs, and the settings that differ from the defaults."""
    default = plain(vars(Settings()))
    now = plain(vars(method.training))
    told = [f"{key} {now[key]}" for key in now if key == "epochs" or now[key] != default[key]]
    return f"{method.network}, {method.objective} ({', '.join(told)})"
