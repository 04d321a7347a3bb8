"""Values that a saved model may not hold, and arguments that no call may take."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

import openset
from openset import OpenSet, Tap
from openset.detectors import build

from .cases import Case
from .material import Material, small_network, three_classes
from .mutate import edited_json
from .sealed import Sealed, reseal

NAN, INF = float("nan"), float("inf")

VALUES: dict[str, list[tuple[tuple, object]]] = {
    "energy": [
        *((("threshold", "values"), x) for x in ([NAN], [INF], [-INF], [], [1.0, 2.0], 1.0, ["1"])),
        *((("threshold", "accept"), x) for x in (5, -1, 0, 1, "0.9", None, NAN, True)),
        *((("threshold", "counts"), x) for x in ([], [-1], [0.5], [1, 2], None, [10**400])),
        *((("classes",), x) for x in (["a", "b"], [], list("abcdefg"), ["a"] * 6, list(range(6)))),
        *((("classes",), x) for x in ("abcdef", [None] * 6, ["unknown", *"bcdef"])),
        *((("detector", "settings", "temperature"), x) for x in (0, -1, NAN, INF, "1", [], True)),
        *((("adapter", "size"), x) for x in ([8], [8, 8, 8], [0, 8], [-8, 8], "88", [8.5, 8], [])),
        *((("adapter", "channels"), x) for x in (0, 2, 4, "1", -1, 1.5)),
        *((("adapter", "invert"), x) for x in ("no", 2, [])),
        *((("adapter", "interpolation"), x) for x in ("x", 3, "")),
        *((("adapter", "resize"), x) for x in ("fit", 3, None)),
        *((("adapter", "scaled"), x) for x in ([8], [0, 8], "88", [8.5, 8], 256)),
        *((("adapter", "fill"), x) for x in ([-1], [256], [0, 0], "0", [0.5])),
        *((("adapter", "std"), x) for x in ([0.0], [NAN], [1, 1], "1")),
        *((("tap", "layers"), x) for x in (["no such"], [1], [[]], [], None, "", 1, "stage1")),
        *((("tap", "layers"), x) for x in ({"x": "no such"}, {"logits": "head"}, {"stage1": 1})),
        *((("tap", "head"), x) for x in ("no such", 1, [], {}, None, True)),
        *((("format",), x) for x in (0, 2, 99, "1", None)),
        *((("network", "name"), x) for x in ("no-such", "", 1, None)),
    ],
    "odin": [
        *((("detector", "settings", "epsilon"), x) for x in (1e30, -1, NAN, INF, "0", True)),
        *((("detector", "settings", "temperature"), x) for x in (0, -1, NAN, INF)),
        *((("detector", "settings", "std"), x) for x in ([], [0.0], [NAN], [1, 2, 3], "x")),
    ],
    "mahalanobis": [(("detector", "settings", "epsilon"), x) for x in (1e30, -1, NAN, INF)],
    "knn": [(("detector", "settings", "k"), x) for x in (0, -1, 10**9, 1.5, "5", True)],
    "gemos": [
        (("detector", "settings", "density"), x) for x in ("pca", "gaussian-mixture", {}, None, 1)
    ],
    "fusion": [
        (("detector", "settings", "detectors"), x) for x in ([], ["energy"], "energy", None, [1])
    ],
}
"""By model, places in its description and values that none can have there."""


def cases(material: Material, count: int) -> Iterator[Case]:
    """Sealed models with such values, duplicate keys and wrong calls; all must be refused."""
    for name, values in VALUES.items():
        sealed = Sealed(material.models / name, material)
        for keys, value in values:
            edit = ("set", keys, value)
            attempt = partial(refuses, sealed, edit)
            yield Case(f"values: {keys[0]}", f"{name} {edit!r}"[:150], attempt, shares=True)
        for keys in (("threshold", "values"), ("classes",), ("detector",), ("network",)):
            told = sealed.told[keys[0]]
            same = told[keys[1]] if len(keys) > 1 else told
            edit = ("twice", keys, same)
            yield Case(
                "values: duplicate keys",
                f"{name} {keys}",
                partial(refuses, sealed, edit),
                shares=True,
            )
    for name, call in CALLS.items():
        yield Case("values: calls", name, partial(refused_call, call), shares=True)


def refuses(sealed: Sealed, edit: tuple) -> str | None:
    """Loading such a model is refused."""
    shutil.copytree(sealed.folder, ".", dirs_exist_ok=True)
    reseal(edited_json(sealed.told, edit, sealed.decoy), None, Path("model.json"))
    answer = sealed.read()
    return f"accepted: {answer.splitlines()[1][-80:]}"


def model() -> OpenSet:
    return OpenSet(Tap(small_network()), build("energy"))


CALLS: dict[str, Callable[[], object]] = {
    "calibrate([])": lambda: model().calibrate([]),
    **{
        f"accept={accept!r}": lambda a=accept: model().calibrate([three_classes(60)], accept=a)
        for accept in ("0.9", 5, -1, 0, 1, NAN, INF, None, True)
    },
    "calibrate on NaN scores": lambda: OpenSet(Tap(_broken()), build("energy")).calibrate(
        [three_classes(60)]
    ),
    "a call with a NaN network": lambda: OpenSet(Tap(_broken()), build("energy"))(
        three_classes(4)[0].clamp(0, 1)
    ),
    "calibrate on unknown labels": lambda: model().calibrate(
        [(three_classes(60)[0].clamp(0, 1), torch.full((60,), -1))]
    ),
    "fit on nothing": lambda: openset.fit(small_network(), {"m": build("mahalanobis")}, [], []),
    "no detectors": lambda: openset.extract(Tap(small_network()), 5),
}
"""Calls that no one can mean."""


def _broken() -> torch.nn.Module:
    network = small_network()
    with torch.no_grad():
        next(network.parameters()).fill_(NAN)
    return network


def refused_call(call: Callable[[], object]) -> str | None:
    """The call raises one sentence."""
    return f"accepted: {call()!r:.100}"
