"""Cost of labels and scores of a 1024×512 image beyond the network, and of metrics of a hundred.

    OMP_NUM_THREADS=1 python speed/pixels.py

The network's forward pass and the model, which labels and scores too, run in turns; the smallest of
several times counts, in processor time, so that others may be at work beside it. Beside them stand
single walks through all logits, of which a label and a score need several. The metrics are of 52
million pixels, one image after another.
"""

import time

import torch
from turns import seconds

from openset import OpenSet, Tap, networks
from openset.activations import UNKNOWN
from openset.detectors import build
from openset.evaluation.pixels import Pixels
from openset.scoring.answers import Answer
from openset.scoring.scored import Scored

NETWORKS = ("ladder-small", "ladder-densenet-121")
DETECTORS = ("msp:temperature=10", "entropy:temperature=2", "energy", "max-logit")
SIZE = (512, 1024)
CLASSES = 19


@torch.inference_mode()
def labelling(name: str, detector: str) -> None:
    torch.manual_seed(0)
    network = networks.build(name, classes=CLASSES, channels=3).eval()
    model, image = OpenSet(Tap(network), build(detector)), torch.rand(1, 3, *SIZE)
    activations = model.extractor(image)
    forward, decide = seconds(lambda: network(image), lambda: model.decide(activations), repeats=7)
    print(
        f"{name}, {detector}: forward {1e3 * forward:.0f} ms, label and score "
        f"{1e3 * decide:.1f} ms: {1 + decide / forward:.3f} of the forward pass in all"
    )


@torch.inference_mode()
def walks(name: str) -> None:
    network = networks.build(name, classes=CLASSES, channels=3).eval()
    image, logits = torch.rand(1, 3, *SIZE), -torch.rand(1, CLASSES, *SIZE)
    one = torch.zeros_like(logits)  # Pages that are there already.
    forward, largest, exp, exp2 = seconds(
        lambda: network(image),
        lambda: logits.amax(1),
        lambda: torch.exp(logits, out=one),
        lambda: torch.exp2(logits, out=one),
        repeats=7,
    )
    print(
        f"{name}: of the forward pass, the largest of each pixel's logits takes "
        f"{largest / forward:.3f}, exp of all {exp / forward:.3f}, exp2 {exp2 / forward:.3f}"
    )


def metrics(images: int = 100) -> None:
    score, predicted = torch.rand(1, *SIZE), torch.randint(CLASSES, (1, *SIZE))
    label = torch.randint(CLASSES, (1, *SIZE))
    label[:, :60, :60] = UNKNOWN
    answer = Answer("", torch.rand(1, 3, *SIZE), Scored(score, label, predicted), CLASSES)
    found, started = Pixels(), time.perf_counter()
    for _ in range(images):
        found.add(answer)
    found.close()
    print(f"all pixel metrics of {images} images: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    walks(NETWORKS[0])
    for name in NETWORKS:
        for detector in DETECTORS:
            labelling(name, detector)
    metrics()
