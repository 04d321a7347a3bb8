"""Growth of the memory of `fit` with the number of images; there should be none.

    OPENSET_DATA=… python speed/memory.py

Each fit runs in a process of its own, whose peak resident memory is printed. The images are read
from disk and decoded batch by batch, pass a briefly trained network, and their features go through
the store on disk.
"""

import argparse
import resource
import subprocess
import sys

DETECTORS = ("mahalanobis", "gemos:covariance=diag")


def peak(detector: str, images: int) -> float:
    """MiB at the peak of a fit in a fresh process."""
    call = [sys.executable, __file__, "--detector", detector, "--images", str(images)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout.split()[-1])


def fit_once(detector: str, images: int) -> float:
    import torch

    from openset import networks
    from openset.data import load
    from openset.detectors import build
    from openset.model.fit import fit
    from openset.objectives import CrossEntropy
    from openset.training.loop import train

    torch.manual_seed(0)
    few = load("ylecun/mnist,limit=2000")
    network = train(CrossEntropy(networks.cnn(classes=10, channels=1)), few, epochs=2, lr=0.05)
    data = load(f"ylecun/mnist,limit={images}", valid=500 / images)
    fit(network, {detector: build(detector)}, data.train, data.valid)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detector")
    parser.add_argument("--images", type=int, default=10_000)
    given = parser.parse_args()
    if given.detector:
        print(fit_once(given.detector, given.images))
    else:
        for name in DETECTORS:
            few, many = peak(name, 10_000), peak(name, 60_000)
            print(
                f"{name}: {few:.0f} MiB at 10,000 images, {many:.0f} at 60,000: {many / few:.3f}×"
            )
