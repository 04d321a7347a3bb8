"""The plan of docs/how-to/several-processes.md for ImageNet-1k, at 1/100 of its size.

    OMP_NUM_THREADS=1 python speed/imagenet.py

Two processes write a store of activations as a ResNet-50 has them, 2,048 features and 1,000 logits
an image; what they hold does not matter here and is drawn at random. Each detector is then fitted
from the store in a process of its own, of which the passes over the store and the peak of memory
above the imports' are told, beside what the plan computes.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from openset import Activations, Store
from openset.detectors import build
from openset.processes import here, joined

IMAGES, CLASSES, FEATURES, BATCH = 12_811, 1_000, 2_048, 256
ROW = 4 * (FEATURES + CLASSES) + 8
PROCESSES = 2
MB = 1e6

PLAN = {
    "mahalanobis": 8 * (CLASSES + FEATURES) * FEATURES,
    "knn": 4 * min(IMAGES, 50_000) * FEATURES,
}
"""Bytes that each detector holds."""


def drawn(number: int) -> Activations:
    """One batch."""
    size = min(BATCH, IMAGES - number * BATCH)
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, FEATURES, generator=generator)
    logits = torch.randn(size, CLASSES, generator=generator)
    label = torch.arange(number * BATCH, number * BATCH + size) % CLASSES
    return Activations(logits, {"penultimate": x}, label)


def write(folder: str, rank: int) -> None:
    with joined(rank, PROCESSES, torch.device("cpu")):
        numbers = here().share(range(-(-IMAGES // BATCH)))
        Store(folder).collect((number, drawn(number)) for number in numbers)


class Counted:
    """Batches of a store, and how many were read."""

    def __init__(self, store: Store):
        self.store, self.batches = store, 0

    def __iter__(self):
        for batch in self.store:
            self.batches += 1
            yield batch


def fit(folder: str, detector: str) -> None:
    batches, before = Counted(Store(folder)), peak()
    started = time.perf_counter()
    learned = build(detector).fit(batches)
    seconds = time.perf_counter() - started
    held = sum(x.numel() * x.element_size() for x in learned.buffers())
    passes = batches.batches / len(batches.store.counts)
    print(
        f"{detector}: {passes:.2f} passes over the disk, {seconds:.0f} s; holds "
        f"{held / MB:.0f} MB in the end, peak {(peak() - before) / MB:.0f} MB; "
        f"planned {PLAN[detector] / MB:.0f} MB"
    )


def peak() -> float:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = str(Path(parent, "store"))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533"}
        call = [sys.executable, __file__, "--folder", folder]
        started = time.perf_counter()
        writing = [
            subprocess.Popen([*call, "--rank", str(rank)], env={**os.environ, **meeting})
            for rank in range(PROCESSES)
        ]
        codes = [each.wait() for each in writing]
        if any(codes):
            sys.exit("error: a process failed")
        seconds = time.perf_counter() - started
        found = sum(file.stat().st_size for file in Path(folder).iterdir())
        print(
            f"store: {found / MB:.1f} MB in {len(Store(folder).counts)} shards by {PROCESSES} "
            f"processes in {seconds:.0f} s; planned {IMAGES * ROW / MB:.1f} MB",
            flush=True,
        )
        for detector in PLAN:
            subprocess.run([*call, "--detector", detector], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--detector")
    given = parser.parse_args()
    if given.rank is not None:
        write(given.folder, given.rank)
    elif given.detector:
        fit(given.folder, given.detector)
    else:
        main()
