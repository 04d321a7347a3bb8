"""The device that networks run on, and that every command which runs one asks for it."""

import pytest
import torch
from command_line import call, fails

from openset.networks.device import choose_device
from openset.objectives import CrossEntropy
from openset.training.loop import train


@pytest.fixture
def two_gpus(monkeypatch):
    found = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)


def test_an_accelerator_is_taken_if_there_is_one(two_gpus):
    assert choose_device() == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")


def test_without_one_it_is_the_cpu(no_gpu):
    assert choose_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:2", "mps", "meta", "gpu", ""])
def test_a_device_that_is_not_there_is_refused(two_gpus, name):
    with pytest.raises(ValueError, match="is not on this machine; there is cpu, cuda:0, cuda:1"):
        choose_device(name)


def test_training_refuses_it_too(no_gpu):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    batch = torch.rand(8, 1, 2, 2), torch.arange(8) % 2
    with pytest.raises(ValueError, match="there is cpu"):
        train(CrossEntropy(network), [batch], epochs=1, device="cuda")


def test_every_command_that_runs_a_network_asks_for_the_device(
    run, pictures, tmp_path, no_gpu, capsys
):
    out = tmp_path / "out"
    commands = [
        ("train", "digits", "--out", out),
        ("fit", run, "--detector", "msp"),
        ("tune", run, "--detector", "msp"),
        ("predict", run, pictures, "--detector", "energy"),
        ("evaluate", run, "--out", out),
        ("demo", "--out", out),
        ("benchmark", "osr-mnist", "--quick", "--out", tmp_path / "bench"),
    ]
    for command in commands:
        said = fails(capsys, *command, "--device", "cuda")
        assert "device cuda is not on this machine; there is cpu" in said, command
        assert not out.exists()
    call("predict", run, pictures, "--detector", "energy", "--device", "cpu")
