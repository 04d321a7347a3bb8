"""Twelve detectors on MNIST, fitted and evaluated here and through pytorch-ood's own benchmark.

    OPENSET_DATA=… python speed/peers.py [--images 60000 --test 10000]     # needs the extra `peers`

Both get the same trained network and the same data sets of tensors in memory, and both fit six of
the detectors. pytorch-ood's side is its `Benchmark.evaluate(detectors, cache=True)` after `fit` of
each detector, as its documentation shows. AUROC are compared where both have the detector. ODIN,
which must look again, takes most of the time on both sides, so the others are timed alone too.
Times are of the processor, over all threads, so that others may be at work beside it; the images
that pass the network are counted too, those that a gradient goes back through apart.
"""

import argparse
import copy
import time
import warnings
from typing import ClassVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

from openset import networks
from openset.data import load, load_images
from openset.detectors import build
from openset.evaluation.evaluate import evaluate
from openset.extractors.extract import extract
from openset.networks.external import import_library
from openset.objectives import CrossEntropy
from openset.scoring.views import tap_for
from openset.training.loop import train

UNKNOWN = ("tanganke/kmnist", "brendenlake/omniglot", "gaussian-noise")
DIMENSION = 64

OURS = {
    "MaxSoftmax": "msp",
    "MaxLogit": "max-logit",
    "Entropy": "entropy",
    "EnergyBased": "energy",
    "GEN": "gen",
    "ODIN": "odin",
    "Mahalanobis": "mahalanobis:layers=penultimate",
    "RMD": "relative-mahalanobis",
    "KNN": "knn:k=50,max_rows=60000",
    "ViM": f"vim:dimension={DIMENSION}",
    "OpenMax": "openmax",
    "ReAct": "react",
}


def tensors(images, name: str, label: int | None = None) -> TensorDataset:
    """A data set of float images in memory, as either side takes it."""
    image = images.images.float() / 255
    labels = images.labels if label is None else torch.full((len(image),), label)
    made = TensorDataset(image, labels)
    made.name = name
    return made


def peers(network: nn.Module) -> list:
    """pytorch-ood's detectors on the same network."""
    library = import_library("pytorch_ood").detector
    encoder, head = copy.deepcopy(network), network.head
    encoder.head = nn.Identity()
    flat = nn.Sequential(nn.Flatten(), head)
    logits = [library.MaxSoftmax, library.MaxLogit, library.Entropy, library.EnergyBased]
    return [
        *(kind(network) for kind in (*logits, library.GEN)),
        library.ODIN(network, eps=0.0014, temperature=1000),
        library.Mahalanobis(encoder),
        library.RMD(encoder),
        library.KNN(encoder, k=50),
        library.ViM(encoder, DIMENSION, head.weight.detach(), head.bias.detach()),
        library.OpenMax(network),
        library.ReAct(lambda x: encoder(x)[:, :, None, None], flat),
    ]


def run_peers(network, known, test, unknown, without=()) -> dict[tuple[str, str], float]:
    base = import_library("pytorch_ood.benchmark.base").Benchmark

    class MNIST(base):
        ood_names: ClassVar = list(unknown)

        def train_set(self):
            return known

        def test_sets(self, known=True, unknown=True):
            return [ConcatDataset([test, sets[name]]) for name in self.ood_names]

    sets = unknown
    detectors = [d for d in peers(network) if type(d).__name__ not in without]
    for detector in detectors:
        if detector.requires_fit:
            detector.fit(DataLoader(known, batch_size=256))
    rows = MNIST().evaluate(detectors, {"batch_size": 256}, cache=True)
    return {(row["Detector"], row["Dataset"]): float(row["AUROC"]) for row in rows}


def run_ours(network, known, test, unknown, without=()) -> dict[tuple[str, str], float]:
    detectors = {name: build(spec) for name, spec in OURS.items() if name not in without}
    tap = tap_for(network, detectors.values())
    train_set = extract(tap, known)
    for detector in detectors.values():
        detector.fit(train_set)
    results = evaluate(tap, detectors, test, unknown)
    rows = [row for row in results.rows if row.metric == "auroc" and row.unknown in unknown]
    return {(row.detector, row.unknown): row.value for row in rows}


class Passes:
    """Counts the images that pass any network, by its first layer, which sees one channel."""

    def __init__(self):
        self.plain = self.graded = 0
        register_module_forward_hook(self._seen)

    def _seen(self, module: nn.Module, _: object, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 1:
            self.graded += len(output) * output.requires_grad
            self.plain += len(output) * (not output.requires_grad)

    def taken(self) -> str:
        """What was counted since it was last asked for."""
        told = f"{self.plain:,} images looked at and {self.graded:,} with a gradient"
        self.plain = self.graded = 0
        return told


def main(images: int, tested: int) -> None:
    torch.manual_seed(0)
    data = load(f"ylecun/mnist,limit={images}")
    network = train(CrossEntropy(networks.cnn(classes=10, channels=1)), data, epochs=2, lr=0.05)
    network.requires_grad_(False).eval()
    few = data.test.subset(torch.arange(min(tested, len(data.test))))
    known, test = tensors(data.train, "train"), tensors(few, "mnist")
    limited = {name: f"{name},limit={len(test)}" for name in UNKNOWN}
    unknown = {
        name: tensors(load_images(spec, data.adapter), name, -1) for name, spec in limited.items()
    }
    passes = Passes()
    for without in ((), ("ODIN",)):
        started = time.process_time()
        ours = run_ours(network, known, test, unknown, without)
        between, own = time.process_time(), passes.taken()
        theirs = run_peers(network, known, test, unknown, without)
        seconds = between - started, time.process_time() - between
        if not without:
            compare(ours, theirs)
        print(
            f"{len(OURS) - len(without)} detectors, {len(known):,} images to fit, {len(test):,} "
            f"known and {len(UNKNOWN)} unknown sets: openset {seconds[0]:.1f} s ({own}), "
            f"pytorch-ood {seconds[1]:.1f} s ({passes.taken()}): {seconds[1] / seconds[0]:.1f} "
            "times faster"
        )


def compare(ours: dict[tuple[str, str], float], theirs: dict[tuple[str, str], float]) -> None:
    """Prints both AUROC of each detector and unknown set."""
    for (detector, name), value in theirs.items():
        gap = abs(value - ours[detector, name])
        mark = "" if gap <= 1e-4 else f"   differs by {gap:.4f}"
        print(f"{detector:12} {name:22} {value:.5f} ours {ours[detector, name]:.5f}{mark}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--test", type=int, default=10_000)
    warnings.simplefilter("ignore")
    given = parser.parse_args()
    main(given.images, given.test)
