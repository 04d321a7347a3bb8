"""Features of a briefly trained network, which `mixture.py` and `densities.py` take.

    OPENSET_DATA=… python speed/features.py FILE.safetensors [NETWORK [IMAGES]]

All stages, the penultimate layer and the logits of MNIST's training images, as GeMOS reads them:
layers that repeat another are left out. The network learns from a tenth of the images.
"""

import sys

import torch
from safetensors.torch import save_file

from openset import Tap, networks
from openset.data import load
from openset.detectors.rows import choose_layers, distinct
from openset.extractors.extract import extract
from openset.objectives import CrossEntropy
from openset.training.loop import train


def main(file: str, name: str = "cnn", images: str = "60000") -> None:
    torch.manual_seed(0)
    known = load(f"ylecun/mnist,limit={images}").train
    network = networks.build(name, classes=10, channels=1)
    few = known.subset(torch.arange(len(known) // 10))
    train(CrossEntropy(network), few, epochs=2, lr=0.05)
    stages = [f"stage{i + 1}" for i in range(len(network.stages))]
    seen = extract(Tap(network, stages), known)
    layers = distinct(seen[0], choose_layers(seen, None))
    x = torch.cat([batch.stacked(layers) for batch in seen])
    labels = torch.cat([batch.labels for batch in seen])
    save_file({"features": x, "labels": labels}, file)
    right = torch.cat([batch.logits.argmax(1) for batch in seen]) == labels
    print(f"{name}, {len(x):,} images, {x.shape[1]} features, accuracy {right.float().mean():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
