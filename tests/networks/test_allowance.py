"""A description makes what its file of weights fills, and asks for nothing more."""

import math
import resource
import time
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file

from openset import networks

SMALL = {
    **{name: {"classes": 3, "channels": 1} for name in networks.NETWORKS | networks.DENSE},
    "autoencoder": {"channels": 1, "size": 8, "width": 4},
    "spade": {"classes": 3, "channels": 1, "width": 4},
    "real-nvp": {"channels": 1, "blocks": 1, "width": 4},
}


def saved(network, path):
    save_file({name: x.contiguous() for name, x in network.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("name", SMALL)
def test_every_network_fits_its_own_file(tmp_path, name):
    network = networks.build(name, **SMALL[name])
    again = networks.restore(network.spec, saved(network, tmp_path / "w.safetensors"))
    for key, x in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], x), key


@pytest.mark.parametrize("name", networks.HEADS)
def test_every_head_fits_its_own_file(tmp_path, name):
    needed = {"select": {"outputs": (0, 2)}, "normalised": {"mean": [0.2], "std": [0.5]}}
    network = networks.HEADS[name](
        networks.cnn(3, 1, widths=(4, 8), hidden=8), **needed.get(name, {})
    )
    again = networks.restore(network.spec, saved(network, tmp_path / "w.safetensors")).eval()
    image = torch.rand(2, 1, 8, 8)
    assert torch.equal(again(image), network.eval()(image))


def sizes(spec, keys=()):
    """The way to each number of a spec."""
    parts = spec.items() if isinstance(spec, dict) else enumerate(spec)
    for key, value in parts:
        if isinstance(value, dict | list | tuple):
            yield from sizes(value, (*keys, key))
        elif type(value) is int:
            yield (*keys, key)


def changed(spec, keys, size):
    if not keys:
        return size
    parts = dict(spec) if isinstance(spec, dict) else list(spec)
    parts[keys[0]] = changed(parts[keys[0]], keys[1:], size)
    return parts


@pytest.mark.parametrize("size", [50_000, 10**6, 2**62, -(2**40)])
@pytest.mark.parametrize("name", [*SMALL, "bottleneck"])
def test_a_size_that_no_file_fills_takes_neither_time_nor_memory(tmp_path, name, size):
    if name == "bottleneck":
        network = networks.bottleneck(networks.cnn(3, 1, widths=(4, 8), hidden=8), samples=2)
    else:
        network = networks.build(name, **SMALL[name])
    path = saved(network, tmp_path / "w.safetensors")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for keys in sizes(network.spec):
        started = time.process_time()
        with suppress(ValueError):  # Some numbers are no sizes.
            networks.restore(changed(network.spec, keys, size), path)
        assert time.process_time() - started < 2, keys
    most = 2**18 + 3 * path.stat().st_size / 1024  # kB: the file and the network count too.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < most


def test_a_list_of_a_million_widths_ends_soon(tmp_path):
    network = networks.cnn(3, 1, widths=(4, 8), hidden=8)
    path = saved(network, tmp_path / "w.safetensors")
    started = time.process_time()
    with pytest.raises(ValueError, match="asks for more than its file can fill"):
        networks.restore({**network.spec, "widths": [1] * 10**6}, path)
    with pytest.raises(ValueError, match=r"holds the size 1e\+12, more than its file"):
        networks.restore({**network.spec, "widths": [10**12]}, path)
    assert time.process_time() - started < 3


@pytest.mark.parametrize("value", [1e30, "cnn", None, [[]], {"name": "cnn"}, math.nan, True])
def test_a_size_of_another_kind_is_one_sentence(tmp_path, value):
    network = networks.cnn(3, 1, widths=(4, 8), hidden=8)
    path = saved(network, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"network cnn|expected"):
        networks.restore({**network.spec, "classes": value}, path)
