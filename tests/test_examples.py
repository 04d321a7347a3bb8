"""Every example runs as it stands and shows what its text says."""

import ast
import importlib
import io
import re
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from PIL import Image
from sklearn.datasets import load_digits

from openset.model.predict import COLUMNS

EXAMPLES = Path(__file__).parents[1] / "examples"

SHOWN = {
    "new_detector": r"saved and loaded: Angle\(layer='penultimate'\)",
    "new_objective": r"logit-norm, msp +│ +0\.9",
    "onnx_without_torch": r"a-9.png: unknown, .*\ntorch was imported: False",
    "own_data": r"an even digit is called unknown\nan odd digit is called the digit 9",
    "own_network": r"known digits called unknown: [0-9]\..*\nunknown digits called unknown: [5-9]",
    "per_pixel": r"known ink called unknown: (1?[0-9]\.).*\nunknown ink called unknown: [3-9]",
}
"""Pattern of each example's output; the server, which does not end, has a test of its own."""


def test_every_example_is_tested_and_short():
    files = sorted(EXAMPLES.glob("*.py"))
    assert {file.stem for file in files} == {*SHOWN, "server"}
    for file in files:
        text = file.read_text()
        assert ast.get_docstring(ast.parse(text)), file.name
        assert len(text.splitlines()) <= 60, file.name


@pytest.mark.parametrize("name", SHOWN)
def test_the_example_runs(name, tmp_path, monkeypatch, capfd):
    file = str(EXAMPLES / f"{name}.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [file])
    runpy.run_path(file, run_name="__main__")  # Here, because importing torch again takes long.
    sys.stdout.flush()
    printed = capfd.readouterr().out
    assert re.search(SHOWN[name], printed), printed


def test_the_command_line_takes_the_new_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES.parent)
    monkeypatch.chdir(tmp_path)
    call(
        *("train", "digits", "--objective", "examples.new_objective:LogitNorm", "--out", "run"),
        *("--network", "cnn:widths=8+16,hidden=32", "--known-classes", "0-5", "--epochs", "1"),
    )
    call("fit", "run", "--detector", "examples.new_detector:Angle", "--accept", "0.9")
    assert "examples.new_detector:Angle: At least 90.0%" in capsys.readouterr().err


@pytest.fixture(scope="module")
def client():
    pytest.importorskip("fastapi", reason="the extra `server` is not installed")
    from fastapi.testclient import TestClient

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        app = importlib.import_module("server").app
    with TestClient(app) as client:
        yield client


def label(client, picture):
    return client.post("/label", content=picture, headers={"Content-Type": "image/png"})


def png(image):
    file = io.BytesIO()
    Image.fromarray(np.uint8(image * 15.9)).save(file, "PNG")
    return file.getvalue()


def test_the_server_gives_concurrent_requests_what_each_would_get_alone(client):
    pictures = [png(image) for image in load_digits().images[-100:]]
    alone = [label(client, picture).json() for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        together = [answer.json() for answer in pool.map(lambda p: label(client, p), pictures)]
    assert together == alone
    for answer in alone:
        assert list(answer) == [*COLUMNS]
        assert (answer["label"] == "unknown") == (answer["margin"] < 0)
        assert answer["label"] in ("unknown", answer["nearest"])
        assert 0 < answer["p_value"] <= 1
    digits = load_digits().target[-100:].tolist()
    right = [
        a["label"] == (str(d) if d < 6 else "unknown") for a, d in zip(alone, digits, strict=True)
    ]
    assert np.mean(right) > 0.8
    assert client.get("/model").json()["classes"] == ["0", "1", "2", "3", "4", "5"]


def test_the_server_says_what_is_wrong_with_a_picture(client):
    answer = label(client, b"no picture")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("cannot read the image: ")
