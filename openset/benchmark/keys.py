"""Fingerprints of what decides weights and figures: files, code and plain values.

Those of images are their own: `ImageSet.fingerprint`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from openset import networks
from openset.data import Adapter
from openset.data.pixels import short_hash
from openset.detectors import Detector
from openset.objectives import Objective
from openset.runs.recipe import Recipe
from openset.spec import look_up

INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
"""Folders of code that is not ours; the versions of the libraries stand for it."""

TRAINING = ("openset.data.noise", "openset.runs.recipe", "openset.training.loop")
"""The modules that train, whatever the objective; noise has but its settings for a fingerprint."""

EVALUATION = ("openset.data.noise", "openset.evaluation.evaluate", "openset.model.fit")
"""The modules that fit and measure, whatever the detector."""

FACTORIES = (
    networks.NETWORKS
    | networks.DENSE
    | networks.LIBRARIES
    | networks.HEADS
    | networks.AUTOENCODERS
    | networks.FLOWS
    | networks.GENERATORS
)
"""Every function that makes a network, by the name that a network's spec has for it."""

BYSTANDERS = (
    "openset.data.builders.build",
    "openset.data.sources",
    "openset.data.splits",
    "openset.data.tables",
    "openset.errors",
    "openset.evaluation.examples",
    "openset.files",
    "openset.objectives",
    "openset.spec",
    "openset.training.checkpoints",
    "openset.training.progress",
)
"""Modules whose code does not count: those of messages, files and pictures, the table of all
objectives, and those whose outcome, such as settings and images, has fingerprints of its own."""


def facts(
    recipe: Recipe, classes: list[str], adapter: Adapter, objective: dict[str, Any] | None
) -> dict[str, Any]:
    """Collects all in a run's description that decides its weights, as plain values.

    Args:
        recipe: The recipe of the run.
        classes: Names of the known classes.
        adapter: Turns an image into the network's input.
        objective: The objective's spec, which holds the network's.
    """
    return plain(
        {
            "data": recipe.data,
            "known_classes": recipe.known_classes,
            "classes": classes,
            "adapter": adapter.settings(),
            "valid": recipe.valid,
            "objective": objective,
            "training": recipe.settings.decisive(),
        }
    )


def training_code(objective: Objective, recipe: Recipe) -> str:
    """A fingerprint of the code that a training runs: the loop, the objective and its network."""
    augment = ["openset.data.augment"] if recipe.settings.augment else []
    return code_of([*TRAINING, *augment], [objective])


def evaluation_code(detector: Detector, network: nn.Module, tuned: bool) -> str:
    """A fingerprint of the code that decides a detector's figures.

    Args:
        detector: The detector, fitted or not.
        network: The network that it reads.
        tuned: Whether its settings are searched for.
    """
    tuning = ["openset.model.tune"] if tuned else []
    return code_of([*EVALUATION, *tuning], [detector, network])


def code_of(modules: Iterable[str], parts: Iterable[nn.Module]) -> str:
    """A fingerprint of the source of modules and networks, with all of ours that they use.

    Comments, docstrings and the layout of lines are left out: none of them changes a figure, and
    hours of training hang on it.

    Args:
        modules: Names of Python modules.
        parts: Networks, detectors and objectives.
    """
    return short_hash(*(_source(name) for name in sorted(sources(modules, parts))))


def sources(modules: Iterable[str], parts: Iterable[nn.Module]) -> set[str]:
    """The names of our Python modules that decide what modules and networks compute.

    Args:
        modules: Names of Python modules.
        parts: Networks, detectors and objectives: the classes of all that is in them count, and
            the factories that networks were made by.
    """
    inner = [module for part in parts for module in part.modules()]
    used = {base.__module__ for kind in {type(x) for x in inner} for base in kind.__mro__}
    made = {place for x in inner for place in _factories(getattr(x, "spec", None))}
    found: set[str] = set()
    for name in (*modules, *used, *made):
        _collect(name, found)
    return found


def _factories(spec: Any) -> Iterator[str]:
    """The Python modules of the factories that a network's spec names."""
    if not isinstance(spec, Mapping):
        return
    if "name" in spec:
        yield look_up("network", FACTORIES, str(spec["name"])).__module__
    for value in spec.values():
        yield from _factories(value)


def _collect(name: str, found: set[str]) -> None:
    """Adds a module of ours and those that its functions and classes come from."""
    if name in found or name in BYSTANDERS or not _is_ours(name):
        return
    found.add(name)
    for value in list(vars(import_module(name)).values()):
        if not isinstance(value, ModuleType):
            _collect(str(getattr(value, "__module__", None)), found)


@cache
def _is_ours(name: str) -> bool:
    """Whether a module is openset's or the user's own, and no library's."""
    if name.startswith("openset."):
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and file.endswith(".py") and not file.startswith(INSTALLED)


@cache
def _source(name: str) -> str:
    """The code of a module without its comments and docstrings."""
    file = import_module(name).__file__
    assert file is not None
    return bare(Path(file).read_text(encoding="utf-8"))


def bare(source: str) -> str:
    """Python code without its comments, its docstrings and its layout, alike for every Python.

    `ast.unparse` quotes otherwise from 3.12 on, and `ast.dump` names fields that were not there.

    Example:
        >>> bare("def f(x):\\n    '''Adds one.'''\\n    return -x  # One.\\n")
        "Module(body=[FunctionDef(name='f', args=arguments(args=[arg(arg='x')]), \
body=[Return(value=UnaryOp(op=USub(), operand=Name(id='x', ctx=Load())))])])"
    """
    return _shape(_WithoutTexts().visit(ast.parse(source)))


def _shape(part: Any) -> str:
    """A syntax tree in words, without fields that are empty."""
    if isinstance(part, list):
        return f"[{', '.join(map(_shape, part))}]"
    if not isinstance(part, ast.AST):
        return repr(part)
    given = [(name, value) for name, value in ast.iter_fields(part) if value not in (None, [])]
    return f"{type(part).__name__}({', '.join(f'{name}={_shape(value)}' for name, value in given)})"


class _WithoutTexts(ast.NodeTransformer):
    """Takes out the statements that are but a text, as docstrings are."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


def key_of(*parts: Any) -> str:
    """A fingerprint of plain values."""
    return short_hash(json.dumps(parts, sort_keys=True))


def file_digest(path: Path) -> str:
    """A fingerprint of a file's content."""
    if not path.is_file():
        raise ValueError(f"{path} is no file of weights; check the path")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value, default=str))


def slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w.=+,-]+", "-", text).strip("-")
