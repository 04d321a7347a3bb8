"""Protocols: the shipped ones are valid, tiers override, and errors name the line."""

import re

import pytest

from openset.benchmark import protocol
from openset.benchmark.toml_lines import line_numbers

VALID = """\
title = "tiny"
data = "digits"
unknown = ["left-out", "gaussian-noise"]
splits = [[0, 1, 2], [3, 4, 5]]
network = "cnn"
detectors = ["msp",
    "energy"]
metrics = ["auroc"]
seeds = 2

[training]
epochs = 3
lr = 0.05

[quick.training]
epochs = 1

[published.msp]
left-out = { auroc = 0.9 }
"""


def write(tmp_path, text):
    path = tmp_path / "tiny.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", protocol.names())
@pytest.mark.parametrize("tier", protocol.TIERS)
def test_shipped_protocols_are_valid(name, tier):
    loaded = protocol.load(name, tier)
    assert loaded.methods
    assert loaded.unknown_sets
    assert all(method.detectors for method in loaded.methods)


def test_tier_overrides_what_it_names(tmp_path):
    path = write(tmp_path, VALID)
    quick, paper = protocol.load(str(path), "quick"), protocol.load(str(path))
    assert (quick.methods[0].training.epochs, paper.methods[0].training.epochs) == (1, 3)
    assert quick.methods[0].training.lr == paper.methods[0].training.lr == 0.05
    assert quick.splits == ["0,1,2", "3,4,5"]
    assert quick.methods[0].published == {"msp": {"left-out": {"auroc": 0.9}}}


def test_methods_share_what_stands_above(tmp_path):
    text = VALID.replace('network = "cnn"\n', "").replace(
        "[training]", "[training]\nmomentum = 0.8"
    )
    text += '\n[[methods]]\nnetwork = "cnn"\n[[methods]]\nnetwork = "vgg"\n'
    text += 'training = { epochs = 7 }\ndetectors = ["msp"]\n'
    methods = protocol.load(str(write(tmp_path, text))).methods
    assert [m.network for m in methods] == ["cnn", "vgg"]
    assert [m.training.epochs for m in methods] == [3, 7]
    assert [m.training.momentum for m in methods] == [0.8, 0.8]
    assert [m.detectors for m in methods] == [["msp", "energy"], ["msp"]]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ('title = "tiny"', 'titel = "tiny"', 1, "title"),
        ('data = "digits"', "data = 3", 2, "expected text"),
        ('"energy"]', '"enrgy"]', 7, "energy"),
        ('metrics = ["auroc"]', 'metrics = ["auorc"]', 8, "auroc"),
        ("seeds = 2", "seeds = 0", 9, "at least 1"),
        ('network = "cnn"', 'network = "cmn"', 5, "cnn"),
        ("lr = 0.05", "learning_rate = 0.05", 13, "unknown training setting"),
        ("lr = 0.05", "lr = -1", 13, "at least 0"),
        ("epochs = 1", 'epochs = "one"', 16, "epochs"),
        ("[published.msp]", "[published.mps]", 18, "msp"),
        ("left-out = {", "mnist = {", 19, "unknown set"),
        ("auroc = 0.9 ", "auroc = 90 ", 19, "0…1"),
        ("[training]", "[training", 11, "is no TOML"),
    ],
)
def test_errors_name_the_line(tmp_path, old, new, line, says):
    assert old in VALID
    path = write(tmp_path, VALID.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        protocol.load(str(path))
    assert f"tiny.toml:{line}:" in str(caught.value) or f"line {line}," in str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    for key in ("data", "network", "unknown"):
        text = re.sub(rf"^{key} = .*\n", "", VALID, flags=re.MULTILINE)
        with pytest.raises(ValueError, match=f"{key} is missing"):
            protocol.load(str(write(tmp_path, text)))


def test_left_out_needs_splits(tmp_path):
    text = VALID.replace("splits = [[0, 1, 2], [3, 4, 5]]\n", "")
    with pytest.raises(ValueError, match="left-out needs splits"):
        protocol.load(str(write(tmp_path, text)))


def test_unknown_protocol_suggests_the_nearest():
    with pytest.raises(ValueError, match="osr-mnist"):
        protocol.load("osr-mist")
    with pytest.raises(ValueError, match="is no file"):
        protocol.load("nowhere.toml")


def test_lines_of_nested_tables():
    text = '[[a]]\nx = 1\n[a.b]\ny = 2\n[[a]]\nx = [\n  [1, 2]\n]\n[c."d e"]\nz = {u = 1}\n'
    lines = line_numbers(text)
    assert lines["a", 0, "x"] == 2
    assert lines["a", 0, "b", "y"] == 4
    assert lines["a", 1, "x"] == 6
    assert lines["c", "d e", "z"] == 10


def test_a_detector_is_tuned_on_other_unknown_data_than_the_tests(tmp_path):
    text = VALID.replace("[training]", 'tune = { msp = ["uniform-noise,limit=9"] }\n[training]')
    assert protocol.load(str(write(tmp_path, text))).methods[0].tune == {
        "msp": ["uniform-noise,limit=9"]
    }
    leak = text.replace("uniform-noise,limit=9", "gaussian-noise,limit=9")
    with pytest.raises(ValueError, match="gaussian-noise,limit=9 is an unknown set of the test"):
        protocol.load(str(write(tmp_path, leak)))
    other = text.replace("{ msp =", "{ odin =")
    with pytest.raises(ValueError, match="unknown detector here 'odin'"):
        protocol.load(str(write(tmp_path, other)))
    wrong = text.replace('["uniform-noise,limit=9"]', '"uniform-noise"')
    with pytest.raises(ValueError, match="expected a list of unknown sets"):
        protocol.load(str(write(tmp_path, wrong)))
