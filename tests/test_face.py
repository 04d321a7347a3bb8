"""The public face: every name is there, and asking for none of them costs nothing."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import openset
from openset.evaluation import stamp

HEAVY = ("torch", "lightning_fabric", "sklearn", "matplotlib", "datasets", "scipy")


def imported_by(code):
    """The heavy libraries that a fresh interpreter has imported after some code."""
    show = f"import sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1].split()


def test_every_name_is_there():
    assert [name for name in openset.__all__ if getattr(openset, name) is None] == []
    assert set(dir(openset)) == set(openset.__all__)


def test_names_are_imported_from_where_type_checkers_are_told():
    source = ast.parse(Path(openset.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in source.body if isinstance(node, ast.If))
    told = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module != "openset"
        for alias in node.names
    }
    assert told == openset._PLACES


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="openset has no 'Tapp'; there are: UNKNOWN"):
        openset.Tapp  # noqa: B018


def test_no_function_hides_a_module():
    folder = Path(openset.__file__).parent
    places = {path.stem for path in folder.iterdir()}
    assert places & set(openset._PLACES) == set()


def test_import_is_light():
    assert imported_by("import openset") == []
    assert imported_by("import openset; openset.Tap, openset.detectors, openset.train") == ["torch"]


def test_help_imports_no_torch():
    code = "from openset.commands.app import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert imported_by(code) == []


def test_a_checkout_that_is_not_installed_has_a_version_too(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert openset.__version__ == "uninstalled"
    monkeypatch.setattr(stamp, "version", missing)
    assert stamp.stamp()["Versions"].startswith("Python")
