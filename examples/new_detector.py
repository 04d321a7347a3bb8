"""A new detector is one class: what it learns in `fit`, how it scores in `score`.

This one measures the angle to the nearest class mean. It works per image and per pixel, saves,
loads and moves to a device like the others. The command line takes it from Python's path:

    PYTHONPATH=. openset fit run --detector examples.new_detector:Angle
"""

import rich
import torch
from torch.nn import functional as F

import openset
from openset import Moments, OpenSet, Tap
from openset.detectors import Detector, Energy, Mahalanobis


class Angle(Detector):
    """One minus the cosine between the features of `layer` and the nearest class mean."""

    mean: torch.Tensor  # Learned: using it before `fit` gives a clear error.

    def __init__(self, layer: str = "penultimate"):
        super().__init__()
        self.layer = layer
        self.layers = (layer,)

    def fit(self, batches):
        rows = [batch.rows() for batch in batches]
        pairs = [(row.features[self.layer], row.labels) for row in rows]
        moments = Moments.of(pairs, classes=rows[0].logits.shape[1], kind="diag")
        self.keep(mean=F.normalize(moments.mean.float(), dim=1))
        return self

    def score(self, rows):
        cosine = F.normalize(rows.features[self.layer], dim=1) @ self.mean.T
        return 1 - cosine.amax(1)  # Higher = more unknown.


def main():
    """Compares it with two others, and saves a model that decides by it."""
    torch.manual_seed(0)
    data = openset.data.load("digits", known_classes=range(6))
    network = openset.networks.cnn(classes=6, channels=1, widths=(16, 32), hidden=64)
    objective = openset.objectives.CrossEntropy(network)
    openset.train(objective, data.train, epochs=15, optimizer="adam", lr=0.002, batch_size=64)
    tap = Tap(network)
    train = openset.extract(tap, data.train)
    detectors = [d.fit(train) for d in (Energy(), Mahalanobis(), Angle())]
    results = openset.evaluate(tap, detectors, known=data.test, unknown=data.unknown)
    rich.print(results.table(["auroc", "fpr_at_95_tpr"]))
    OpenSet(tap, detectors[2]).calibrate(data.valid, accept=0.9).save("angle")
    model = OpenSet.load("angle", trust=[Angle.__module__])  # The file names code, it holds none.
    print(f"saved and loaded: {model.detector}")


if __name__ == "__main__":
    main()
