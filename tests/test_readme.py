"""The README's Python and shell run as they stand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from openset.commands.app import main

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_runs(tmp_path):
    (code,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").exists()
    assert sorted(p.name for p in (tmp_path / "digits-gemos").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]


def test_the_shell_runs(tmp_path, monkeypatch):
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("openset ")]
    assert len(commands) == 6
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "pictures" / "a.png")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        main(shlex.split(command)[1:])  # In this process: importing torch six times takes long.
    assert (
        (tmp_path / "labels.csv")
        .read_text()
        .startswith("path,label,nearest,probability,score,threshold,margin,p_value")
    )
    assert (tmp_path / "energy.onnx").exists()
    assert (tmp_path / "results" / "report.html").exists()
