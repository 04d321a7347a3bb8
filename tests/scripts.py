"""The scripts of `speed/`, which are no package."""

import importlib.util
from pathlib import Path
from types import ModuleType


def script(name: str) -> ModuleType:
    """A script as a module: `script("border")` is `speed/border.py`."""
    path = Path(__file__).parents[1] / "speed" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
