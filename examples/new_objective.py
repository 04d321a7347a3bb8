"""A new training method is one class: `step` yields which module learns from which loss.

This one is LogitNorm (Wei et al., 2022, https://arxiv.org/abs/2205.09310): cross-entropy on logits
of one length, so that training cannot lower the loss by making every logit larger. (The energy
reads that length, which then says little.) The command line takes it from Python's path:

    PYTHONPATH=. openset train digits --objective examples.new_objective:LogitNorm --out run
"""

import rich
import torch
from torch.nn import functional as F

import openset
from openset import Results, Tap
from openset.detectors import Energy, Entropy, MaxSoftmax
from openset.objectives import CrossEntropy, Objective


class LogitNorm(Objective):
    """Cross-entropy on normalised logits.

    Args:
        network: From images to logits.
        temperature: What the normalised logits are divided by; the paper takes 0.04 for CIFAR-10.
    """

    def __init__(self, network: torch.nn.Module, temperature: float = 0.04):
        super().__init__(network)
        self.temperature = temperature

    def step(self, image, label):
        logits = F.normalize(self.network(image), dim=1) / self.temperature
        yield "network", F.cross_entropy(logits, label)


def main():
    """Trains the same network by either method and compares what detectors make of it."""
    data = openset.data.load("digits", known_classes=range(6))
    found = []
    for method in (CrossEntropy, LogitNorm):
        torch.manual_seed(0)
        network = openset.networks.cnn(classes=6, channels=1, widths=(16, 32), hidden=64)
        how = {"epochs": 15, "optimizer": "adam", "lr": 0.002, "batch_size": 64}
        trained = openset.train(method(network), data.train, **how)
        detectors = {f"{method.name}, {d.name}": d for d in (MaxSoftmax(), Entropy(), Energy())}
        found.append(openset.evaluate(Tap(trained), detectors, data.test, data.unknown))
    rich.print(Results.merge(found).table(["accuracy", "auroc", "fpr_at_95_tpr"]))


if __name__ == "__main__":
    main()
