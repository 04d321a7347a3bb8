"""A run's folder holds all of the old or all of the new, and one run only."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from openset.training.checkpoints import RunFolder, run_folder

RUN = {"objective": {"name": "cross-entropy"}, "settings": {"lr": 0.1, "milestones": (3, 4)}}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run", RUN)


def test_what_a_kill_left_half_written_is_swept(folder):
    left = folder.path / ".checkpoint.pt.01234567.partial"
    left.write_bytes(b"half")
    assert RunFolder(folder.path, RUN, resume=True).load() is None
    assert not left.exists()


def test_holds_one_run(folder):
    with pytest.raises(ValueError, match="already holds a run; resume it, or choose another"):
        RunFolder(folder.path, RUN)


def test_resumes_only_the_same_run_and_names_what_differs(folder):
    RunFolder(folder.path, RUN, resume=True)
    other = {**RUN, "settings": {"lr": 0.2, "milestones": (3, 4)}}
    with pytest.raises(ValueError, match=r"different run: settings.lr was 0.1, now 0.2$"):
        RunFolder(folder.path, other, resume=True)
    assert RunFolder(folder.path, RUN, resume=True).read_description() == {
        "objective": {"name": "cross-entropy"},
        "settings": {"lr": 0.1, "milestones": [3, 4]},
    }


def test_resuming_nothing_begins(tmp_path):
    assert RunFolder(tmp_path / "new", RUN, resume=True).load() is None


def test_gives_back_the_checkpoint(folder):
    assert folder.load() is None
    folder.save({"step": 3, "weights": torch.arange(4.0)})
    state = RunFolder(folder.path, RUN, resume=True).load()
    assert state["step"] == 3
    assert state["weights"].equal(torch.arange(4.0))


def test_the_log_ends_where_the_checkpoint_was(folder):
    folder.log({"epoch": 1})
    folder.save({"step": 1})
    folder.log({"epoch": 2})
    assert (folder.path / "log.jsonl").read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    folder.load()
    assert (folder.path / "log.jsonl").read_text() == '{"epoch": 1}\n'


class Planted:
    def __reduce__(self):
        return os.mkdir, (os.environ["PLANTED"],)


def test_never_runs_code_from_a_checkpoint(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PLANTED", str(tmp_path / "ran"))
    (folder.path / "checkpoint.pt").write_bytes(pickle.dumps(Planted(), protocol=2))
    with pytest.raises(ValueError, match="no checkpoint, or damaged"):
        folder.load()
    torch.save({"log_bytes": Planted()}, folder.path / "checkpoint.pt")
    with pytest.raises(ValueError, match="no checkpoint, or damaged"):
        folder.load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("length", [0, 1, 200])
def test_names_a_truncated_checkpoint(folder, length):
    folder.save({"weights": torch.zeros(100)})
    file = folder.path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is no checkpoint, or damaged"):
        folder.load()


def test_names_a_damaged_description(folder):
    (folder.path / "training.json").write_text('{"sett')
    with pytest.raises(ValueError, match=r"training.json is damaged"):
        RunFolder(folder.path, RUN, resume=True)


def test_saves_weights_in_any_layout(folder):
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3))
    network.to(memory_format=torch.channels_last)
    network[1].weight = network[0].weight
    folder.save_network(network)
    loaded = load_file(folder.path / "network.safetensors")
    assert loaded.keys() == network.state_dict().keys()
    assert all(loaded[name].equal(value) for name, value in network.state_dict().items())


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    place = tmp_path / "run"
    with (
        run_folder(place, RUN),
        pytest.raises(ValueError, match=r"another process is training in .*run; wait"),
        run_folder(place, RUN, resume=True),
    ):
        raise AssertionError("the log would be written by two")
    with run_folder(place, RUN, resume=True) as run:
        assert run.load() is None
    assert [file.name for file in place.iterdir()] == ["training.json"]
