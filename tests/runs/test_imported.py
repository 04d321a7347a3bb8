"""Networks that were trained elsewhere, as runs."""

import csv
import json

import pandas as pd
import pytest
import torch
from command_line import call, fails
from safetensors.torch import load_file, save_file

from openset.data import Adapter
from openset.evaluation.results import Results
from openset.runs.imported import read_outputs
from openset.runs.run import Run, load_model
from openset.scoring.threshold import SEEN

NETWORK = "cnn:widths=8+16,hidden=32"
THREE = ("--data", "digits", "--known-classes", "3,1,5")
MINE = """
from torch import nn

from openset.networks import cnn


class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.body = cnn(classes, channels, widths=(8, 16), hidden=32)

    def forward(self, image):
        return {"logits": self.body(image), "loss": None}
"""


def bring(run, out, *options, network=NETWORK, weights=None, known="0-5"):
    weights = weights or run / "network.safetensors"
    known = ("--known-classes", known) if known else ()
    call(
        "import", network, "--weights", weights, "--data", "digits", *known, "--out", out, *options
    )
    return Run.load(out)


def test_an_imported_run_says_what_it_is_and_every_command_takes_it(run, tmp_path, capsys):
    found = bring(run, tmp_path / "run")
    said = capsys.readouterr().err
    assert "imported from network.safetensors: 6 classes; accuracy: test 9" in said
    assert "no threshold will guarantee anything" in said
    assert found.objective is None
    assert found.accuracy == Run.load(run).accuracy
    assert found.doubt == SEEN
    call("fit", found.folder, "--detector", "energy", "--detector", "gemos:components=1")
    assert "No guarantee holds" in capsys.readouterr().err
    call("tune", found.folder, "--detector", "msp", "--grid", "temperature=1+3")
    out = tmp_path / "out"
    call("evaluate", found.folder, "--detector", "energy", "--out", out)
    row = next(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert (row["network"], row["objective"]) == ("cnn", "imported")
    assert "imported from network.safetensors" in (out / "report.html").read_text()
    call("report", out)
    call("export", found.folder, "--detector", "energy", "--out", tmp_path / "model.onnx")


def test_held_out_data_are_vouched_for_once(run, tmp_path, capsys):
    found = bring(run, tmp_path / "run", "--held-out", "valid")
    assert found.doubt is None
    call("fit", found.folder, "--detector", "energy")
    said = capsys.readouterr().err
    assert "no threshold will guarantee" not in said
    assert "No guarantee holds" not in said
    assert "of future known samples are accepted" in said
    refused = ("--data", "digits", "--known-classes", "0-5", "--held-out", "digits:test")
    weights = run / "network.safetensors"
    out = tmp_path / "other"
    said = fails(capsys, "import", NETWORK, "--weights", weights, *refused, "--out", out)
    assert "is what this run was trained and is tested on" in said
    assert not out.exists()


def test_half_of_the_test_images_may_be_held_out(run, tmp_path, capsys):
    found = bring(run, tmp_path / "run", "--held-out", "digits:test[:50%]")
    data, before = found.load_data(), Run.load(run).load_data()
    assert len(data.valid) + len(data.test) == len(before.test)
    assert not set(data.valid.indices.tolist()) & set(data.test.indices.tolist())
    assert (
        "The threshold rests on digits:test[:50%], and the test on digits:test[50%:]." in data.notes
    )
    call("fit", found.folder, "--detector", "energy")
    assert f"as the {len(data.valid)} held-out ones" in " ".join(capsys.readouterr().err.split())
    out = tmp_path / "out"
    call("evaluate", found.folder, "--out", out)
    assert Results.load(out).thresholds
    said = fails(capsys, "fit", run, "--detector", "energy", "--held-out", "digits:test[:50%]")
    assert "`openset import` takes a part of the test images" in said
    some = ("--data", "digits", "--known-classes", "0-5", "--weights", run / "network.safetensors")
    train = ("--held-out", "digits:train[:50%]", "--out", tmp_path / "no")
    said = fails(capsys, "import", NETWORK, *some, *train)
    assert "is what this run was trained and is tested on" in said


@pytest.fixture
def shuffled(run, tmp_path):
    """The run's weights with its outputs in another order: output i is class ORDER[i]."""
    state = load_file(run / "network.safetensors")
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    for key in ("head.weight", "head.bias"):
        state[key] = state[key][order].clone()
    save_file(state, tmp_path / "shuffled.safetensors")
    return tmp_path / "shuffled.safetensors"


RIGHT = "2,3,5,0,4,1"


def test_outputs_in_another_order_are_noticed_and_put_right(run, shuffled, tmp_path, capsys):
    found = bring(run, tmp_path / "wrong", weights=shuffled)
    said = " ".join(capsys.readouterr().err.split())
    assert found.accuracy["test"] < 0.3
    assert "warning:" in said
    assert "not the data's classes in this order" in said
    assert f"--outputs {RIGHT}" in said
    found = bring(run, tmp_path / "right", "--outputs", RIGHT, weights=shuffled)
    assert found.accuracy == pytest.approx(Run.load(run).accuracy, abs=0.01)
    assert found.warning is None
    assert found.case.network == "cnn"


def test_of_a_network_of_more_classes_those_of_the_data_are_kept(run, tmp_path, capsys):
    some = ("--weights", run / "network.safetensors", *THREE)
    out = tmp_path / "run"
    said = fails(capsys, "import", NETWORK, *some, "--out", out)
    assert "has 6 outputs and digits 3 classes" in said
    assert "--outputs 3,1,5" in said
    (tmp_path / "names.txt").write_text("0, zero\n1\n2\n3, three\n4\n5\n")
    call("import", NETWORK, *some, "--outputs", tmp_path / "names.txt", "--out", out)
    found = Run.load(out)
    assert found.network["outputs"] == [3, 1, 5]
    assert found.accuracy["test"] > 0.9
    call("fit", out, "--detector", "vim", "--detector", "energy")
    label, _ = load_model(out, "energy")(torch.rand(3, 1, 8, 8))
    assert label.max() < 3


def test_a_network_of_ones_own_file_is_imported_and_predicts(
    run, pictures, tmp_path, monkeypatch, capsys
):
    (tmp_path / "mine_nets.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    state = load_file(run / "network.safetensors")
    weights = tmp_path / "last.ckpt"
    torch.save({"state_dict": {f"model.body.{key}": x for key, x in state.items()}}, weights)
    found = bring(run, tmp_path / "run", network="mine_nets:Net", weights=weights)
    assert found.accuracy == Run.load(run).accuracy
    refused = fails(capsys, "fit", found.folder, "--detector", "energy")
    assert "mine_nets:Net is code outside openset" in refused
    assert "or --network mine_nets:Net" in refused
    named = ("--network", "mine_nets:Net")
    call("fit", found.folder, "--detector", "energy", *named)
    call("fit", found.folder, "--detector", "knn", "--trust", "mine_nets")
    call("tune", found.folder, "--detector", "msp", "--grid", "temperature=1+3", *named)
    call("evaluate", found.folder, "--detector", "energy", *named, "--out", tmp_path / "out")
    (tmp_path / "moved.py").write_text(MINE)
    for name in ("mine_nets:Net", "moved:Net"):
        onnx = ("--detector", "energy", "--out", tmp_path / f"{name[:5]}.onnx")
        call("export", found.folder, "--network", name, *onnx)
    call("fit", found.folder, "--detector", "gen", "--network", "moved:Net")
    for how in (("--trust", "mine_nets"), ("--network", "mine_nets:Net")):
        how = (*how, "--detector", "energy")
        call("predict", found.folder, pictures, *how, "--out", tmp_path / f"{how[0]}.csv")
    one, other = (pd.read_csv(tmp_path / f"--{how}.csv") for how in ("trust", "network"))
    # Where the weights lie in memory decides the last digit.
    pd.testing.assert_frame_equal(one, other, rtol=1e-5)


WANTING = """
from torch import nn

from openset.networks import cnn


def make(classes, channels):
    network = cnn(classes, channels, widths=(8, 16), hidden=32)
    network.normalize = nn.Identity()
    network.pretrained_cfg = {"input_size": (1, 8, 8), "mean": (0.3,), "std": (0.4,), "crop_pct": 1}
    return network
"""


def test_what_a_network_says_of_its_images_is_done(run, tmp_path, monkeypatch):
    (tmp_path / "wanting.py").write_text(WANTING)
    monkeypatch.chdir(tmp_path)
    state = load_file(run / "network.safetensors")
    del state["normalize.mean"], state["normalize.std"]
    save_file(state, tmp_path / "bare.safetensors")
    found = bring(run, tmp_path / "run", network="wanting:make", weights="bare.safetensors")
    assert found.adapter == Adapter((8, 8), 1, interpolation="bicubic", resize="shorter")
    assert found.network["name"] == "normalised"
    network = found.load_network(named="wanting:make")
    assert network.normalize.mean.item() == pytest.approx(0.3)
    image = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(network(image), network.network((image - 0.3) / 0.4))
    call("fit", found.folder, "--detector", "energy", "--network", "wanting:make")


def without_data(run, out, *options):
    given = ("--weights", run / "network.safetensors", "--size", "8", "--channels", "1")
    call("import", NETWORK, *given, *options, "--out", out)
    return Run.load(out)


def test_without_data_detectors_that_learn_nothing_do(run, pictures, tmp_path, capsys):
    found = without_data(run, tmp_path / "run", "--classes", "6")
    assert (found.recipe.data, found.classes, found.accuracy) == (None, list("012345"), {})
    assert found.adapter.shape == (1, 8, 8)
    capsys.readouterr()
    call("fit", found.folder, "--detector", "msp", "--detector", "gen")
    assert "msp: no threshold, as no known images are held out" in capsys.readouterr().err
    out = tmp_path / "answers.csv"
    call("predict", found.folder, pictures, "--detector", "msp", "--out", out)
    assert "calls nothing unknown: give --threshold" in " ".join(capsys.readouterr().err.split())
    assert (pd.read_csv(out).label != "unknown").all()
    call("predict", found.folder, pictures, "--detector", "msp", "--threshold", "-1", "--out", out)
    assert (pd.read_csv(out).label == "unknown").all()
    onnx = tmp_path / "model.onnx"
    said = fails(capsys, "export", found.folder, "--detector", "msp", "--out", onnx)
    assert "this model has no threshold" in said
    said = fails(capsys, "fit", found.folder, "--detector", "mahalanobis")
    assert "mahalanobis must be fitted to training images" in said
    said = fails(capsys, "tune", found.folder, "--detector", "odin")
    assert "was imported without data, which this needs" in said
    strange = ("--unknown", pictures, "--out", tmp_path / "out")
    said = fails(capsys, "evaluate", found.folder, *strange)
    assert "no known images to tell the unknown ones from" in said


def test_without_data_held_out_images_set_a_threshold(run, tmp_path, capsys):
    classes = ("--classes", "0,1,2,3,4,5")
    found = without_data(run, tmp_path / "run", *classes, "--held-out", "digits:test")
    assert found.doubt is None
    call("fit", found.folder, "--detector", "energy")
    threshold = found.load_model("energy").threshold
    data = Run.load(run).load_data()
    assert threshold.counts == (len(data.test),)
    said = " ".join(capsys.readouterr().err.split())
    assert f"as the {len(data.test)} held-out ones" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--classes", "5", "--size", "8"), "has 6 outputs and 5 classes are named; say which"),
        (("--classes", "a,a,b", "--size", "8"), "classes is 'a,a,b'; give how many"),
        (("--classes", "6"), "nothing says how large the images"),
        (("--classes", "6", "--size", "8y9"), "size is '8y9'; give such as 224"),
        ((), "give the data that the network was trained on, or else its classes"),
        (("--classes", "6", "--data", "digits"), "or else its classes"),
    ],
)
def test_what_is_missing_without_data_is_said(run, tmp_path, capsys, options, said):
    given = ("--weights", run / "network.safetensors", "--channels", "1", *options)
    assert said in fails(capsys, "import", NETWORK, *given, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ("0,1", "2 outputs are named for 3 classes"),
        ("0,1,9", "name at least two of 0…5"),
        ("nowhere.txt", "give positions such as 0,217,482, or a file"),
    ],
)
def test_outputs_that_do_not_fit(run, tmp_path, capsys, outputs, said):
    some = ("--weights", run / "network.safetensors", *THREE)
    out = tmp_path / "run"
    assert said in fails(capsys, "import", NETWORK, *some, "--outputs", outputs, "--out", out)
    assert not out.exists()


def test_class_names_are_looked_up(tmp_path):
    names = ["tench, Tinca tinca", "English_springer", "chain saw"]
    (tmp_path / "names.json").write_text(json.dumps(names))
    classes = ["Chain Saw", "tench"]
    assert read_outputs(str(tmp_path / "names.json"), classes) == [2, 0]
    with pytest.raises(ValueError, match="unknown class 'tenchh': did you mean tench"):
        read_outputs(str(tmp_path / "names.json"), ["tenchh", "chain saw"])
