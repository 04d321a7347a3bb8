"""The kinds of trained networks that people have, each made and taken through the whole job."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import openset
import openset.model.export
from openset.data import Adapter
from openset.networks import Normalize, build, load_weights
from openset.networks.external import import_library
from openset.networks.layers import find_stages

CLASSES, SIDE = 4, 64

LAYERS = "knn:layers=stage1+penultimate"
"""A detector that reads layers."""


class Own(nn.Module):
    """A network as people write them: four blocks, a pool and a linear map."""

    def __init__(self, classes: int = CLASSES):
        super().__init__()
        widths = (3, 8, 16, 24, 32)
        blocks = [
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in pairwise(widths)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.blocks(image).mean((2, 3)))


class Several(Own):
    """The same, but it puts out a dictionary."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # pyright: ignore
        return {"loss": torch.zeros(()), "logits": super().forward(image)}


class Labels(nn.Module):
    """A network that labels pixels."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.head(self.layer2(self.layer1(image)))
        return nn.functional.interpolate(logits, image.shape[2:], mode="bilinear")


def lightning() -> nn.Module:
    """A network filled from a checkpoint as Lightning writes it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "last.ckpt")
        state = {f"model.{key}": x for key, x in Own().state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, file)
        return load_weights(Own(), file)


def behind_normalize() -> nn.Module:
    return nn.Sequential(Normalize([0.5] * 3, [0.5] * 3), Own())


def compiled() -> Any:
    return torch.compile(Own(), backend="eager")


def by_name(spec: str) -> Callable[[], nn.Module]:
    return lambda: build(spec, classes=CLASSES)


def of_timm() -> nn.Module:
    return import_library("timm").create_model("resnet10t", num_classes=CLASSES)


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces its successor.
        return torch.ao.quantization.quantize_dynamic(Own().eval(), {nn.Linear})


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces its successor.
        return torch.jit.script(Own().eval())


def transformer() -> nn.Module:
    """A small network of transformers, from a folder with its configuration."""
    library = import_library("transformers")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    with tempfile.TemporaryDirectory() as folder:
        library.ResNetConfig(**sizes, layer_type="basic").save_pretrained(folder)
        return build(f"transformers:{folder}", classes=CLASSES)


@dataclass(frozen=True)
class Told:
    """What is seen when a network is taken through the job.

    Args:
        weights: Whether its own saved weights are loaded again.
        stages: The number of stages that are found in it.
        fit: The detectors that can be fitted: `all`, or those of the `logits`.
        load: How a saved model is loaded: `alone`, or with `network=`; or that it is not saved.
        predict: The answer about an image file: of the `image`, or a map of its `pixels`.
        onnx: Whether it is exported.
    """

    weights: str
    stages: str
    fit: str
    load: str
    predict: str
    onnx: str


@dataclass(frozen=True)
class Kind:
    """One kind of network.

    Args:
        given: How it is given to `openset.wrap`.
        make: Makes a small one.
        told: What is to be seen of it.
        needs: The library that it needs.
    """

    given: str
    make: Callable[[], nn.Module]
    told: Told
    needs: str = ""


def batches(dense: bool) -> list[tuple[Tensor, Tensor]]:
    """Made-up images whose classes differ in colour."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(80) % CLASSES
    shade = (label / CLASSES)[:, None, None, None]
    image = (torch.rand(80, 3, SIDE, SIDE, generator=generator) + shade) / 2
    label = label[:, None, None].expand(-1, SIDE, SIDE) if dense else label
    return list(zip(image.split(20), label.split(20), strict=True))


def seen(make: Callable[[], nn.Module], folder: Path) -> Told:
    """Takes a network through the job and notes what works."""
    torch.manual_seed(0)
    network = make().eval()
    train = batches(dense=bool(_output(network).dim() == 4))
    adapter, stages = Adapter((SIDE, SIDE)), find_stages(network)
    model = _tried(lambda: wrapped(network, LAYERS, train, adapter))
    all_fit = not isinstance(model, str)
    model = model if all_fit else wrapped(network, "energy", train, adapter)
    saved = _tried(lambda: model.save(folder / "model"))
    alone = _tried(lambda: openset.OpenSet.load(folder / "model"))
    again = alone
    if isinstance(alone, str):
        again = _tried(lambda: openset.OpenSet.load(folder / "model", make()))
    again = model if isinstance(saved, str) else again
    image = train[0][0]
    torch.testing.assert_close(again(image)[1], model(image)[1], rtol=1e-4, atol=1e-5)
    file = folder / "image.png"
    Image.new("RGB", (80, 70), (90, 60, 30)).save(file)
    answered = _tried(lambda: again.predict(file))
    exported = _tried(lambda: openset.model.export.export(again, folder / "model.onnx"))
    return Told(
        weights=_yes(_tried(lambda: reloaded(network, make(), folder))),
        stages=str(len(stages)),
        fit="all" if all_fit else "logits",
        load="not saved" if saved else "`network=`" if isinstance(alone, str) else "alone",
        predict="pixels" if isinstance(answered, str) else "image",
        onnx=_yes(exported),
    )


def wrapped(network: nn.Module, detector: str, train: Any, adapter: Adapter | None = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # It has learned nothing.
        return openset.wrap(network, train, [*reversed(train)], detector, 0.9, adapter=adapter)


def reloaded(network: nn.Module, other: nn.Module, folder: Path) -> None:
    torch.save(network.state_dict(), folder / "weights.pt")
    load_weights(other, folder / "weights.pt")


def _output(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return openset.networks.logits_of(network(torch.rand(2, 3, SIDE, SIDE)))


def _tried(run: Callable[[], Any]) -> Any:
    """What a call gives, or the sentence in which it is refused."""
    try:
        return run()
    except ValueError as error:
        return str(error)


def _yes(found: Any) -> str:
    return "no" if isinstance(found, str) else "yes"


USUAL = Told("yes", "4", "all", "`network=`", "image", "yes")

BY_NAME = replace(USUAL, load="alone")

QUANTISED = replace(USUAL, weights="no", load="not saved", onnx="no")

SCRIPTED = replace(USUAL, stages="0", fit="logits", onnx="no")

MINE = {
    "your own module": Kind("`mynet.make()`", Own, USUAL),
    "output of several parts": Kind("a dictionary, tuple or `ModelOutput`", Several, USUAL),
    "behind a `Normalize`": Kind("`Sequential(Normalize(…), network)`", behind_normalize, USUAL),
    "from a Lightning checkpoint": Kind('`load_weights(network, "a.ckpt")`', lightning, USUAL),
    "labels pixels": Kind("`[N, K, H, W]`", Labels, replace(USUAL, stages="2", predict="pixels")),
    "compiled": Kind("`torch.compile(network)`", compiled, USUAL),
    "in parallel": Kind("`nn.DataParallel(network)`", lambda: nn.DataParallel(Own()), USUAL),
    "quantised": Kind("`quantize_dynamic(network)`", quantised, QUANTISED),
    "TorchScript": Kind("`torch.jit.script(network)`", scripted, SCRIPTED),
}
"""Networks that openset did not build."""

THEIRS = {
    "a name of openset": Kind("`resnet18`", by_name("resnet18"), BY_NAME),
    "timm": Kind("`timm:resnet18`", by_name("timm:resnet10t"), BY_NAME, "timm"),
    "timm's own object": Kind("`timm.create_model(…)`", of_timm, USUAL, "timm"),
    "torchvision": Kind(
        "`torchvision:resnet18`", by_name("torchvision:resnet18"), BY_NAME, "torchvision"
    ),
    "transformers": Kind(
        "`transformers:FOLDER`", transformer, replace(BY_NAME, stages="5"), "transformers"
    ),
    "segmentation-models-pytorch": Kind(
        "`smp:unet`",
        by_name("smp:unet,encoder=resnet18"),
        replace(BY_NAME, predict="pixels"),
        "segmentation_models_pytorch",
    ),
}
"""Networks of libraries, by name with `networks.build`, or as they are."""

KINDS = MINE | THEIRS
"""By name."""


def markdown() -> str:
    """The table of all kinds."""
    columns = [field.name for field in fields(Told)]
    heads = ["Network", "Given as", "Weights", "Stages", "Detectors", "Loads", "Answers", "ONNX"]
    rows = [
        [name, kind.given, *(getattr(kind.told, column) for column in columns)]
        for name, kind in KINDS.items()
    ]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
