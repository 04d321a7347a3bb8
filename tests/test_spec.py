from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from openset.densities import DENSITIES, GaussianMixture, OneClassSVM
from openset.detectors import DETECTORS, GEN, KNN, Mahalanobis
from openset.errors import unknown_name
from openset.spec import Range, allows, build, call, hints_of, parse


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("energy", ("energy", [], {})),
        ("odin:epsilon=0.002,temperature=10", ("odin", [], {"epsilon": 0.002, "temperature": 10})),
        ("gemos:layers=stage1+stage2", ("gemos", [], {"layers": ("stage1", "stage2")})),
        ("timm:resnet18,pretrained=true", ("timm", ["resnet18"], {"pretrained": True})),
        ("my.module:Thing:size=3", ("my.module:Thing", [], {"size": 3})),
        ("a:x-y=none", ("a", [], {"x_y": None})),
        ("fusion:energy+knn", ("fusion", [("energy", "knn")], {})),
    ],
)
def test_parse(spec, expected):
    assert parse(spec) == expected


def make(size: int = 1, *, shape: str = "round"):
    return size, shape


def test_build_passes_settings_and_what_the_caller_gives():
    assert build("thing", {"make": make}, "make:size=3", shape="flat", other=1) == (3, "flat")


def test_a_setting_beats_what_the_caller_gives():
    assert build("thing", {"make": make}, "make:shape=flat", shape="round") == (1, "flat")


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (int, [1, 0], [1.5, "x", True, None]),
        (float, [1, 0.5], ["x", True, (1, 2)]),
        (float | None, [None, 2], ["x"]),
        (bool, [True], [1, "yes"]),
        (Sequence[str], ["one", ("one", "two")], [1, (1, 2)]),
        (Sequence[int], [(1, 2)], [1, "a", ("a",), (1.5,)]),
        (Sequence[float] | str | None, [(1, 0.5), "mistakes", None], [3, ("a",)]),
        (Literal["full", "diag"], ["diag"], ["tide", 1]),
        (str | Path, ["a"], [1]),
        (Callable[[int], int] | Any, [1, "x"], []),
        (float, [1e300], [float("nan"), float("inf"), 10**400]),
        (Literal[1], [1], [True, 1.0, "1"]),
        (Annotated[float, Range(least=0, below=1)] | None, [0, 0.5, None], [-0.1, 1, "x"]),
        (tuple[int, int], [(1, 2), [1, 2]], [(1,), (1, 2, 3), "12", (1.5, 2)]),
        (list[str], [["a"]], ["a", [1]]),
        (dict[str, list[float]], [{"a": [1]}], [{"a": 1}, {1: [1]}, [], None]),
    ],
)
def test_settings_are_of_their_parameters_kinds(hint, right, wrong):
    assert all(allows(hint, value) for value in right)
    assert not any(allows(hint, value) for value in wrong)


def test_errors_name_the_nearest():
    with pytest.raises(ValueError, match=r"unknown thing 'mak': did you mean make\?"):
        build("thing", {"make": make}, "mak")
    with pytest.raises(ValueError, match=r"setting of thing make 'sise': did you mean size\?"):
        build("thing", {"make": make}, "make:sise=3")
    with pytest.raises(ValueError, match="thing make: "):
        build("thing", {"make": make}, "make:1,2,3")
    assert unknown_name("thing", "zzz", ["b", "a"]) == "unknown thing 'zzz': there are: a, b."


def test_imports_what_is_named_in_full():
    node = build("thing", {}, "xml.dom.minidom:Element:tagName=br", trust=None)
    assert node.tagName == "br"
    with pytest.raises(ValueError, match=r"cannot import 'no.such:Thing'"):
        build("thing", {}, "no.such:Thing", trust=["no"])
    with pytest.raises(ValueError, match=r"pass trust=\['xml'\], or --trust xml"):
        build("thing", {}, "xml.dom.minidom:Element:tagName=br", trust=["xml.dom.other", "xm"])


@pytest.mark.parametrize("table", [DETECTORS, DENSITIES])
def test_no_setting_that_counts_or_measures_is_below_nothing(table):
    tried = 0
    for name, factory in table.items():
        for key, hint in hints_of(factory).items():
            if key != "seed" and allows(hint, 1) and not allows(hint, [[]]):
                with pytest.raises(ValueError, match=r"-1"):
                    call(name, factory, {key: -1}, given={"autoencoder": None, "generator": None})
                tried += 1
    assert tried > 15


@pytest.mark.parametrize(
    ("name", "make"),
    {
        "top": lambda: GEN(top=-1),
        "max_rows": lambda: KNN(5, max_rows=0),
        "components": lambda: GaussianMixture(0),
        "added": lambda: build("detector", DETECTORS, "more-classes:added=1000000000"),
        "reduce": lambda: GaussianMixture(reduce=0),
        "gamma": lambda: OneClassSVM(gamma=-1.0),
        "shrinkage": lambda: Mahalanobis().set_params(shrinkage=-0.1),
    }.items(),
)
def test_bounds_hold_for_calls_from_python_too(name, make):
    with pytest.raises(
        ValueError, match=rf"^{name} of \w+ [\w-]+ is .*; expected a .*number at (least|most)"
    ):
        make()


def test_an_array_s_number_will_do_in_python():
    assert GEN(top=np.int64(3)).top == 3
    assert Mahalanobis(shrinkage=np.float32(0.5)).shrinkage == 0.5
