"""Protocols: the shipped ones are valid, tiers override, and errors name the place."""

import re
import time

import pytest

from openset.benchmark import protocol
from openset.benchmark.provenance import notes
from openset.data import load

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


@pytest.mark.parametrize(
    ("name", "tier"), [(name, tier) for name in protocol.names() for tier in protocol.tiers(name)]
)
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


def test_a_shorter_tier_says_what_it_changes_of_the_papers(tmp_path):
    text = f'notes = ["always"]\n{VALID}\n[paper]\nvalid = 0.2\n'
    text += "[paper.training]\nmomentum = 0.8\n"
    text += '[gpu]\nnotes = ["1 epoch, not 3"]\n[gpu.training]\nepochs = 1\n'
    path = write(tmp_path, text)
    gpu, paper = (protocol.load(str(path), tier) for tier in ("gpu", "paper"))
    assert protocol.tiers(str(path)) == ["quick", "gpu", "paper"]
    assert (gpu.methods[0].training.epochs, paper.methods[0].training.epochs) == (1, 3)
    assert (gpu.methods[0].training.momentum, gpu.valid) == (0.8, 0.2)
    assert (gpu.notes, paper.notes) == (["always", "1 epoch, not 3"], ["always"])
    with pytest.raises(ValueError, match=r"no \[cpu\] tier; it has quick, gpu, paper"):
        protocol.load(str(path), "cpu")


def test_published_figures_of_what_is_not_run_are_kept(tmp_path):
    """Those of a method with it, those above all methods once."""
    text = VALID.replace('"energy"]', '"energy", "vim"]')
    text += "\n[published.energy]\ngaussian-noise = { auroc = 0.8 }\n"
    text += '[[quick.methods]]\ndetectors = ["msp"]\npublished.vim.left-out = { auroc = 0.7 }\n'
    loaded = protocol.load(str(write(tmp_path, text)), "quick")
    assert loaded.methods[0].published == {
        "msp": {"left-out": {"auroc": 0.9}},
        "vim": {"left-out": {"auroc": 0.7}},
    }
    assert loaded.others == {"energy": {"gaussian-noise": {"auroc": 0.8}}}


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
    ("old", "new", "place", "says"),
    [
        ('title = "tiny"', 'titel = "tiny"', "titel", "title"),
        ('data = "digits"', "data = 3", "data", "expected text"),
        ('"energy"]', '"enrgy"]', "detectors", "energy"),
        ('"energy"]', "3]", "detectors", "expected a list of text"),
        ('metrics = ["auroc"]', 'metrics = ["auorc"]', "metrics", "auroc"),
        ("seeds = 2", "seeds = 0", "seeds", "at least 1"),
        ("seeds = 2", "seeds = 49921552967", "seeds", "at most 1000"),
        ("seeds = 2", "seeds = true", "seeds", "expected a whole number"),
        ("seeds = 2", "size = [1, 2, 3]", "size", "2 times a whole number"),
        ("seeds = 2", "accept = nan", "accept", "expected a number"),
        ("seeds = 2", "methods = [3]", "methods", "expected a list of a table"),
        ("seeds = 2", "methods = [{}, { detektors = [] }]", "methods[1].detektors", "detectors"),
        ('network = "cnn"', 'network = "cmn"', "network", "cnn"),
        ("lr = 0.05", "learning_rate = 0.05", "training.learning_rate", "unknown training setting"),
        ("lr = 0.05", "lr = -1", "training.lr", "at least 0"),
        ("epochs = 1", 'epochs = "one"', "quick.training.epochs", "epochs"),
        ("[published.msp]", "[published.mps]", "published.mps", "msp"),
        ("left-out = {", "mnist = {", "published.msp.mnist", "unknown set"),
        ("auroc = 0.9 ", "auroc = 90 ", "published.msp.left-out.auroc", "at most 1"),
        ("auroc = 0.9 ", "auorc = 0.9 ", "published.msp.left-out.auorc", "auroc"),
        ("[training]", "[training", "line 11", "is no TOML"),
        ("seeds = 2", f"seeds = {'[' * 5000}", "tiny.toml", "is no TOML"),
    ],
)
def test_errors_name_the_place(tmp_path, old, new, place, says):
    assert old in VALID
    path = write(tmp_path, VALID.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        protocol.load(str(path))
    assert f"tiny.toml: {place}:" in str(caught.value) or place in str(caught.value)


def test_a_long_name_takes_no_time(tmp_path):
    text = VALID.replace("seeds = 2", f"{'segmentation-models-pytorch-' * 40}extended")
    started = time.monotonic()
    with pytest.raises(ValueError, match="is no TOML"):
        protocol.load(str(write(tmp_path, text)))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('network = "cnn"', 'network = "{}"'),
        ("seeds = 2", 'objective = "{}"'),
        ('"energy"]', '"{}"]'),
        ('"energy"]', '"gemos:density={}"]'),
        ('"energy"]', '"gemos:{}"]'),
        ('"energy"]', '"fusion:energy+{}"]'),
        ("seeds = 2", 'methods = [{{ detectors = ["{}"] }}]'),
        ("seeds = 2", 'quick = {{ network = "{}" }}'),
        ("seeds = 2", 'companions = {{ autoencoder = {{ network = "{}" }} }}'),
    ],
)
def test_code_that_a_protocol_names_is_not_imported_unless_trusted(tmp_path, monkeypatch, old, new):
    """A package that says when it is imported, at each place that may name one."""
    (tmp_path / "planted_code").mkdir()
    (tmp_path / "planted_code" / "__init__.py").write_text("raise ValueError('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    text = VALID.replace("[quick.training]", "[paper.training]").replace(
        old, new.format("planted_code.inner:Thing")
    )
    path = str(write(tmp_path, text))
    with pytest.raises(ValueError, match=r"pass trust=.*--trust planted_code"):
        protocol.load(path)
    with pytest.raises(ValueError, match="it ran"):
        protocol.load(path, trust=["planted_code"])


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
    with pytest.raises(ValueError, match=r"tune.msp of a protocol is .* expected a list of text"):
        protocol.load(str(write(tmp_path, wrong)))


def test_the_notes_say_how_long_each_network_and_companion_is_trained():
    """Ten epochs are the default, and yet must be told."""
    data = load("digits")
    told = notes(protocol.load("vmdls-table3", "quick"), data, {}, {"training": 1, "evaluation": 1})
    settings = told["Training settings"]
    assert settings.startswith("plain-cnn, vmdls:kl_weight=0.003125,margin_ramp=2 (epochs 10, ")
    assert "; autoencoder, reconstruction (epochs 3, batch_size 256, " in settings
    assert settings.count("autoencoder, ") == 1
