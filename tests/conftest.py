"""Fixtures that every test may ask for."""

import numpy as np
import pytest
import torch
from command_line import call
from PIL import Image
from tiny_protocol import TINY


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu(request):
    """What names no device runs on the CPU, beside its data and bit for bit the same each time."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ != "test_cuda":
            patch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on six digits with two models."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    call(
        *("train", "digits", "--known-classes", "0-5", "--valid", "0.2", "--out", folder),
        *("--network", "cnn:widths=8+16,hidden=32", "--epochs", "6", "--optimizer", "adam"),
        *("--lr", "0.01", "--batch-size", "32"),
    )
    call("fit", folder, "--detector", "energy", "--detector", "gemos:components=1")
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Five digits as files, one of them in a colour and a size of its own."""
    from sklearn.datasets import load_digits

    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(load_digits().images[:4]):
        Image.fromarray((image * 15.9).astype(np.uint8)).save(folder / f"{i}.png")
    big = Image.fromarray((load_digits().images[4] * 15.9).astype(np.uint8)).convert("RGB")
    big.resize((40, 40)).save(folder / "4.jpg")
    return folder


@pytest.fixture
def tiny(tmp_path):
    """The file of a protocol that takes seconds."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path
