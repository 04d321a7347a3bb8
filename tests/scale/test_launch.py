"""Commands in several processes, as a user starts them, and what comes when one of them dies."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openset.runs.run import Run
from openset.scale.launch import own_device, together

SMALL = (
    "--network",
    "cnn:widths=8+16,hidden=32",
    "--optimizer",
    "adam",
    "--lr",
    "0.01",
    "--device",
    "cpu",
)
COMMAND = (sys.executable, "-m", "openset")


def start(*arguments, command=COMMAND):
    given = [*command, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(given, env=environment, text=True, stderr=subprocess.PIPE)


def run(*arguments, command=COMMAND):
    process = start(*arguments, command=command)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    return said


def train(out, *more):
    return ("train", "digits", "--known-classes", "0-5", "--out", out, *SMALL, *more)


@pytest.mark.slow
def test_two_processes_fit_and_measure_as_one_under_torchrun_too(run_of_six, tmp_path):
    """Not of the fixture `run`, whose models are there already."""
    for name in ("one", "two", "torchrun"):
        shutil.copytree(run_of_six, tmp_path / name)
    wanted = ["--device", "cpu"]
    for detector in ("mahalanobis", "gemos:components=1", "odin"):
        wanted += ["--detector", detector]
    torchrun = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        *COMMAND[1:],
    )
    run("evaluate", tmp_path / "one", *wanted, "--out", tmp_path / "1")
    run("evaluate", tmp_path / "two", *wanted, "--out", tmp_path / "2", "--devices", "2")
    assert (tmp_path / "1" / "results.csv").read_bytes() == (
        tmp_path / "2" / "results.csv"
    ).read_bytes()
    run("fit", tmp_path / "torchrun", *wanted, command=torchrun)
    for file in (tmp_path / "one").rglob("models/*/model.safetensors"):
        alone = load_file(file)
        for name in ("two", "torchrun"):
            found = load_file(tmp_path / name / file.relative_to(tmp_path / "one"))
            assert found.keys() == alone.keys()
            assert all(found[key].equal(alone[key]) for key in alone)


@pytest.fixture(scope="module")
def run_of_six(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch") / "run"
    said = run(*train(folder, "--epochs", "6", "--devices", "2"))
    assert said.count("accuracy") == 1
    return folder


@pytest.mark.slow
def test_training_in_two_processes_reaches_the_accuracy_of_one(run_of_six, tmp_path):
    run(*train(tmp_path / "one", "--epochs", "6"))
    alone, both = (Run.load(folder).accuracy for folder in (tmp_path / "one", run_of_six))
    assert both.keys() == alone.keys()
    assert both == pytest.approx(alone, abs=0.01)  # Sums are rounded in another order.


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds children in /proc")
def test_a_killed_process_ends_the_others_and_the_run_goes_on(tmp_path):
    out, log = tmp_path / "run", tmp_path / ".run.unfinished" / "log.jsonl"
    process = start(*train(out, "--epochs", "400", "--devices", "2"))
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert said.count("\n") == 1, said
    assert "process 2 of 2 was killed (SIGKILL)" in said
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    run(*train(out, "--epochs", "400", "--devices", "2", "--resume", "--max-minutes", "0"))


def test_what_two_processes_cannot_have_is_said(monkeypatch):
    with pytest.raises(ValueError, match="devices is 0; give at least 1"), together(0):
        pass
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert own_device(None, 1) == torch.device("cuda", 1)
    assert own_device("cpu", 7) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"4 processes need as many devices, and cuda has 2 here"):
        own_device(None, 3)
    with pytest.raises(ValueError, match="device is cuda:1, which is one; for several give cuda"):
        own_device("cuda:1", 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="devices is 3, but 2 processes were started"), together(3):
        pass
