"""Whether the attack finds a planted fault of each kind, and blames no case beside it."""

import gc
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from . import runner
from .cases import Case
from .runner import DECOY, MARKER, run

MB = 2**20


def computes():
    end = time.process_time() + 0.4
    while time.process_time() < end:
        pass


def takes():
    np.ones(40 * MB, np.uint8)


def refuses():
    raise ValueError("no")


def leaves_its_mark_and_crashes():
    Path(MARKER).touch()
    os.kill(os.getpid(), signal.SIGKILL)


PLANTED = {
    "wrong": lambda: "another answer",
    "traceback": lambda: 1 / 0,
    "traceback by a crash": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "traceback by an early end": lambda: os._exit(0),
    "hang": computes,
    "hang asleep": lambda: time.sleep(60),
    "memory": takes,
    "memory refused": lambda: np.ones(2**45, np.uint8),
    "code": lambda: subprocess.run(["touch", MARKER], check=True),
    "code and a crash": leaves_its_mark_and_crashes,
    "code that opens a run": lambda: Path(DECOY).write_text(""),
}


@pytest.fixture
def outcomes(tmp_path, monkeypatch):
    """Outcomes of cases, by name, where nothing may wait for long."""
    monkeypatch.setattr(runner, "WAIT", 1.0)

    def tried(attempts, shares=True, jobs=1):
        given = {"seconds": 0.2, "memory": 20 * MB, "shares": shares}
        cases = [Case("planted", name, attempt, **given) for name, attempt in attempts.items()]
        found = [(one.case.name, one.outcome) for one in run(cases, tmp_path, jobs)]
        assert sorted(name for name, _ in found) == sorted(attempts)
        return dict(found)

    yield tried
    gc.unfreeze()


@pytest.mark.parametrize("shares", [True, False])
def test_finds_what_is_planted(outcomes, shares):
    attempts = {"right": lambda: None, "refused": refuses}
    for name, attempt in PLANTED.items():
        attempts |= {name: attempt, f"right after {name}": lambda: None}
    found = outcomes(attempts, shares, jobs=2)
    assert found == {name: name.partition(" ")[0] for name in attempts}


def test_what_one_case_leaves_is_not_the_fault_of_the_next(outcomes):
    left = []
    attempts = {
        "leaves": lambda: left.append(1),
        "stumbles": lambda: "it met what was left" if left else None,
    }
    assert outcomes(attempts) == {"leaves": "right", "stumbles": "right"}


def test_cases_are_measured_by_their_reference(tmp_path):
    def case(name, attempt, memory=20 * MB, **given):
        return Case("measured", name, attempt, memory=memory, shares=True, **given)

    cases = [
        case("as it is", takes, memory=64 * MB, reference=True),
        case("less", lambda: None),
        case("as much", takes),
        case("more", lambda: np.ones(70 * MB, np.uint8) is None or None),
    ]
    found = [one.outcome for one in run(cases, tmp_path, 2)]
    gc.unfreeze()
    assert found == ["right", "right", "right", "memory"]


def test_a_reference_that_crashes_does_not_stop_the_attack(tmp_path):
    crash = PLANTED["traceback by a crash"]
    cases = [Case("measured", "as it is", crash, reference=True, shares=True)]
    cases += [Case("measured", f"case {i}", lambda: None, shares=True) for i in range(3)]
    found = [one.outcome for one in run(cases, tmp_path, 1)]
    gc.unfreeze()
    assert found == ["traceback", "right", "right", "right"]
