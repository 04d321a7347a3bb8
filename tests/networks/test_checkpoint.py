"""Weights from a file."""

import os
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from openset.networks import cnn, load_weights
from openset.networks.checkpoint import OtherOutputs
from openset.networks.external import External


def small(classes: int = 3):
    return cnn(classes, channels=1, widths=(4, 8), hidden=6)


@pytest.fixture
def trained():
    return small()


def saved(state, path):
    torch.save(state, path)
    return path


def same(a, b) -> bool:
    return all(torch.equal(x, b[key]) for key, x in a.items()) and a.keys() == b.keys()


def prefixed(prefix, state):
    return OrderedDict((prefix + key, value) for key, value in state.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: prefixed("module.", state),
        lambda state: {"state_dict": prefixed("module._orig_mod.", state)},
    ],
    ids=["bare", "state_dict", "model", "module", "module-and-compiled"],
)
def test_a_state_dict_file_is_loaded(trained, tmp_path, wrap):
    path = saved(wrap(trained.state_dict()), tmp_path / "weights.pt")
    network = load_weights(small(), path)
    assert same(network.state_dict(), trained.state_dict())


def test_safetensors_is_loaded(trained, tmp_path):
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    network = load_weights(small(), str(tmp_path / "weights.safetensors"))
    assert same(network.state_dict(), trained.state_dict())


def test_a_librarys_own_checkpoint_is_loaded_behind_normalize(tmp_path):
    inner = torch.nn.Conv2d(3, 2, 1)
    path = saved(inner.state_dict(), tmp_path / "weights.pt")
    network = load_weights(External(torch.nn.Conv2d(3, 2, 1)), path)
    assert same(network.network.state_dict(), inner.state_dict())
    outer = saved(network.state_dict(), tmp_path / "outer.pt")
    again = load_weights(External(torch.nn.Conv2d(3, 2, 1), mean=(0, 0, 0)), outer)
    assert same(again.state_dict(), network.state_dict())


def test_missing_and_unexpected_keys_are_named(trained, tmp_path):
    state = trained.state_dict()
    state["head.wight"] = state.pop("head.weight")
    path = saved(state, tmp_path / "weights.pt")
    network = small()
    before = {key: x.clone() for key, x in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"1 missing \(head\.weight\); 1 unexpected \(head\.wight"):
        load_weights(network, path)
    assert same(network.state_dict(), before)


def test_many_keys_are_cut_short(trained, tmp_path):
    path = saved({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"and \d+ more\); 1 unexpected \(a\)"):
        load_weights(trained, path)


def test_other_shapes_are_named(trained, tmp_path):
    path = saved(small(classes=7).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"head\.weight is \[7, 6\], the network's \[3, 6\]"):
        load_weights(trained, path)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_malicious_pickle_does_not_run(trained, tmp_path, name):
    planted = tmp_path / "planted"
    path = saved({"state_dict": Malicious(planted)}, tmp_path / name)
    with pytest.raises(ValueError, match=r"cannot read (weights|tensors)"):
        load_weights(trained, path)
    assert not planted.exists()
    torch.load(path.rename(tmp_path / "pickle"), weights_only=False)
    assert planted.exists(), "the pickle was harmless, so the test showed nothing"


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", "half"])
def test_a_damaged_file_is_named(trained, tmp_path, name, content):
    path = tmp_path / name
    if content == "half":
        write = save_file if name.endswith("safetensors") else torch.save
        write(trained.state_dict(), path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read (weights|tensors) from .*{name}"):
        load_weights(trained, path)


def test_a_file_that_is_not_there(trained, tmp_path):
    with pytest.raises(ValueError, match="no weights at"):
        load_weights(trained, tmp_path / "weights.pt")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2), {1: torch.zeros(2)}])
def test_what_is_no_state_dict(trained, tmp_path, content):
    with pytest.raises(ValueError, match="holds no state_dict"):
        load_weights(trained, saved(content, tmp_path / "weights.pt"))


def in_class(name):
    """An instance of a class that nobody else has, as a trainer's settings are."""
    kind = type(name, (dict,), {"__module__": __name__})
    globals()[name] = kind
    return kind(lr=0.1)


TRAINERS = {
    "lightning": lambda state: {
        "state_dict": {**prefixed("model.", state), "criterion.weight": torch.ones(3)},
        "hyper_parameters": in_class("AttributeDict"),
        "callbacks": {"best": np.float64(0.9), "path": Path("best.ckpt")},
    },
    "net-in-a-wrapper": lambda state: {"state_dict": prefixed("net._orig_mod.", state)},
    "model_state_dict": lambda state: {"model_state_dict": state, "args": Namespace(lr=0.1)},
    "nested": lambda state: {"model": {"state_dict": state, "epoch": 1}},
    "with-averages": lambda state: prefixed("model.", state) | prefixed("ema_model.", state),
    "before-counters": lambda state: {k: x for k, x in state.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("wrap", TRAINERS.values(), ids=TRAINERS.keys())
def test_a_trainers_checkpoint_is_loaded(trained, tmp_path, wrap):
    path = saved(wrap(trained.state_dict()), tmp_path / "last.ckpt")
    globals().pop("AttributeDict", None)  # It need not be importable.
    network = load_weights(small(), path)
    assert same(network.state_dict(), trained.state_dict())


def test_another_number_of_classes_is_one_sentence(trained, tmp_path):
    path = saved(prefixed("model.", small(classes=7).state_dict()), tmp_path / "weights.pt")
    with pytest.raises(OtherOutputs, match=r"trained on 7 classes, not 3.* --outputs") as refused:
        load_weights(trained, path)
    assert refused.value.outputs == 7


class Planted:
    def __reduce__(self):
        return eval, ("__import__('pathlib').Path('planted').touch()",)


def test_of_foreign_objects_nothing_is_made(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = saved({"state_dict": trained.state_dict(), "extra": Planted()}, tmp_path / "a.ckpt")
    load_weights(small(), path)
    assert not (tmp_path / "planted").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "planted").exists(), "the pickle was harmless, so the test showed nothing"


def test_a_whole_network_is_not_run(trained, tmp_path):
    with pytest.raises(ValueError, match="a whole network, which is code and is not run"):
        load_weights(small(), saved(trained, tmp_path / "weights.pt"))
