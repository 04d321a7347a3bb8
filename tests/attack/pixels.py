"""Images in another range, type or depth than 0…1, and calls with what is no image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import openset
from openset import OpenSet, Tap
from openset.detectors import build

from .cases import Case
from .material import Material, small_network, three_classes


def cases(material: Material, count: int) -> Iterator[Case]:
    """Every kind of pixels on every way in; each is refused or read as it is meant."""
    for name, change in KINDS.items():
        for way, enter in WAYS.items():
            yield Case(f"pixels: {way}", name, partial(entered, change, enter), shares=True)
    for name, attempt in FILES.items():
        yield Case("pixels: files", name, attempt, shares=True)
    for name in ("energy", "odin", "mahalanobis:epsilon=0.001", "gemos:components=1", "fusion"):
        for how, call in CALLS.items():
            yield Case(
                f"pixels: {how}", name, partial(called, name, call), refusable=True, shares=True
            )


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "floats in 0…255": lambda x: x * 255,
    "normalised": lambda x: (x - 0.5) / 0.25,
    "in -1…1": lambda x: x * 2 - 1,
    "uint16": lambda x: (x * 65535).int().to(torch.uint16),
    "int64": lambda x: (x * 255).long(),
    "int16": lambda x: (x * 255).short(),
    "bool": lambda x: x > 0.5,
    "one NaN": lambda x: x.index_fill(0, torch.tensor([3]), torch.nan),
    "one infinite": lambda x: x.index_fill(0, torch.tensor([3]), torch.inf),
    "complex": lambda x: x.to(torch.complex64),
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "three dimensions": lambda x: x[:, 0],
    "channels last": lambda x: x.permute(0, 2, 3, 1).repeat(1, 1, 1, 2),
}
"""Changes to images in 0…1; float64, float16 and uint16 can be read as they are meant."""


def model() -> OpenSet:
    """A calibrated model of `energy`."""
    net = small_network()
    return OpenSet(Tap(net), build("energy")).calibrate([three_classes(120, 2)], accept=0.9).eval()


def through_call(x: Tensor, y: Tensor) -> Tensor:
    return model()(x)[1]


def through_calibrate(x: Tensor, y: Tensor) -> Tensor:
    return torch.tensor(model().calibrate([(x, y)], accept=0.8).threshold.values)


def through_extract(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([b.logits for b in openset.extract(Tap(small_network()), [(x, y)])])


def through_fit(x: Tensor, y: Tensor) -> Tensor:
    detectors = {"m": build("mahalanobis")}
    fitted = openset.fit(small_network(), detectors, [(x, y)], [three_classes(60)], accept=0.8)
    return fitted["m"](three_classes(12, 4)[0])[1]


def through_train(x: Tensor, y: Tensor) -> Tensor:
    objective = openset.objectives.CrossEntropy(small_network())
    how = {"epochs": 1, "batch_size": 16, "lr": 0.001, "progress": False}
    return openset.train(objective, [(x, y)], **how)(three_classes(12, 4)[0]).detach()


WAYS = {
    "called": through_call,
    "calibrated": through_calibrate,
    "extracted": through_extract,
    "fitted": through_fit,
    "trained": through_train,
}


def entered(change: Callable[[Tensor], Tensor], enter: Callable) -> str | None:
    """The answer to changed images is that to the true ones, or there is none."""
    x, y = three_classes(60, 3)
    x = x.clamp(0, 1)
    expected, got = enter(x, y), enter(change(x), y)
    if got.shape != expected.shape or not torch.allclose(got.float(), expected.float(), atol=0.05):
        return "accepted, with another answer"
    return None


def in_a_file(array: np.ndarray, largest: int, name: str) -> str | None:
    """A file whose brightest pixel must stay bright."""
    Image.fromarray(array).save(name)
    got = int(openset.data.Adapter((16, 16), 1).open(name).max())
    return None if got >= largest else f"its brightest pixel, for 255, became {got}"


def ramp(highest: float, kind: str) -> np.ndarray:
    return np.tile(np.linspace(0, highest, 16), (16, 1)).astype(kind)


def folder_of_12_bits() -> str | None:
    """A data set of 12-bit pictures keeps their contrast."""
    for c, name in enumerate(("a", "b")):
        Path("zoo", name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(ramp(4095 - i - c, "uint16")).save(f"zoo/{name}/{i}.tif")
    data = openset.data.load("zoo")
    highest = max(float(x.max()) for x, _ in openset.data.batches(data.train))
    return None if highest > 0.9 else f"the brightest pixel became {highest:.2f}"


FILES = {
    "12 bits in tif": partial(in_a_file, ramp(4095, "uint16"), 250, "x.tif"),
    "12 bits in png": partial(in_a_file, ramp(4095, "uint16"), 250, "x.png"),
    "16 bits in png": partial(in_a_file, ramp(65535, "uint16"), 250, "x.png"),
    "16 bits in tif": partial(in_a_file, ramp(65535, "uint16"), 250, "x.tif"),
    "floats in 0…1 in tif": partial(in_a_file, ramp(1, "float32"), 250, "x.tif"),
    "floats in 0…255 in tif": partial(in_a_file, ramp(255, "float32"), 250, "x.tif"),
    "32 bits in tif": partial(in_a_file, ramp(2**31 - 1, "int32"), 250, "x.tif"),
    "a data set of 12 bits": folder_of_12_bits,
}


def in_inference_mode(model: OpenSet, x: Tensor) -> tuple:
    with torch.inference_mode():
        return model(x)


def under_no_grad(model: OpenSet, x: Tensor) -> tuple:
    with torch.no_grad():
        return model(x)


CALLS: dict[str, Callable[[OpenSet, Tensor], tuple]] = {
    "inference mode": in_inference_mode,
    "inference tensors": lambda model, x: model(_inference(x)),
    "no_grad": under_no_grad,
    "empty batch": lambda model, x: model(x[:0]),
    "float64": lambda model, x: model(x.double()),
    "numpy": lambda model, x: model(x.numpy()),
    "list": lambda model, x: model(list(x)),
    "one image": lambda model, x: model(x[0]),
    "not contiguous": lambda model, x: model(x.transpose(2, 3).contiguous().transpose(2, 3)),
    "requires grad": lambda model, x: model(x.clone().requires_grad_()),
}


def _inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


def called(name: str, call: Callable[[OpenSet, Tensor], tuple]) -> str | None:
    """The same labels and scores as of an ordinary call, or one sentence."""
    train, held_out = [three_classes(120, 1)], [three_classes(120, 2)]
    made = openset.fit(small_network(), {"d": build(name)}, train, held_out, accept=0.9)["d"]
    x = three_classes(8, 3)[0].clamp(0, 1)
    expected = made(x)[1]
    label, score = call(made, x)
    if len(score) == 0:
        return None if label.shape == (0,) else f"labels of shape {tuple(label.shape)}"
    expected = expected[: len(score)]
    near = torch.allclose(score.float(), expected, rtol=1e-2, atol=1e-2)
    return None if near else "another answer"
