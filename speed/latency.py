"""Cost of an answer about one image file beyond its decoding and the network.

    OMP_NUM_THREADS=1 python speed/latency.py [NETWORK [SIZE]]

`model.predict(file)` and the network alone, which gets the same file decoded by the same adapter,
run in turns, each first every other time; the smallest of many times counts, in processor time, so
that others may be at work beside it. NETWORK is any name that `openset train --network` takes, such
as `timm:tf_efficientnet_lite0`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from turns import seconds

from openset import Tap, fit, networks
from openset.data import Adapter
from openset.detectors import build

DETECTORS = (
    "msp",
    "gemos:components=8,reduce=64",
    "mahalanobis",
    "fusion",
)
CLASSES = 10
TRAIN, HELD_OUT = 900, 300
REPEATS = 100


def images(count: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of made-up images, whose classes differ in colour."""
    label = torch.arange(count) % CLASSES
    image = (torch.rand(count, 3, size, size) + label[:, None, None, None] / CLASSES) / 2
    return list(zip(image.split(50), label.split(50), strict=True))


@torch.no_grad()
def tell_apart(network: torch.nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Sets the head to the nearest mean of each class, which spares a training."""
    tap = Tap(network)
    features = torch.cat([tap(image).features["penultimate"] for image, _ in batches])
    label = torch.cat([label for _, label in batches])
    means = torch.stack([features[label == c].mean(0) for c in range(CLASSES)])
    head = network.get_submodule(str(tap.head))
    assert isinstance(head, torch.nn.Linear)
    head.weight.copy_(2 * means)
    head.bias.copy_(-means.square().sum(1))


@torch.no_grad()
def main(name: str = "resnet18", size: str = "32") -> None:
    torch.manual_seed(0)
    network = networks.build(name, classes=CLASSES, channels=3).eval()
    # As a run leaves it; otherwise the format of the image alone decides how fast it is.
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    adapter = Adapter((int(size), int(size)), 3)
    train, held_out = images(TRAIN, int(size)), images(HELD_OUT, int(size))
    tell_apart(network, train)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "photo.jpg")
        pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).resize((500, 375)).save(file, quality=90)

        @torch.no_grad()
        def alone():
            return network(adapter.open(file)[None].float() / 255).softmax(1)

        models = fit(network, {spec: build(spec) for spec in DETECTORS}, train, held_out)
        for spec, model in models.items():
            model.adapter = adapter
            without, answer = seconds(alone, lambda m=model: m.predict(file), repeats=REPEATS)
            print(
                f"{name}, {size} px, {spec}: network and decoding {1e3 * without:.1f} ms, answer "
                f"{1e3 * answer:.1f} ms: {answer / without:.3f} times as much",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
