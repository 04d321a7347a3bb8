"""A network of your own, trained by a loop of your own, learns to say "unknown".

Digits 0–5 are known to it; 6–9 are shown only at the end. openset needs the trained module, the
names of the layers to read and some known images that the training did not see.
"""

import rich
import torch
from torch import nn
from torch.nn import functional as F

import openset
from openset import UNKNOWN, OpenSet, Tap
from openset.detectors import KNN, Energy, Mahalanobis


class MyNetwork(nn.Module):
    """Any module from images in 0…1 to logits will do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.embed = nn.Linear(256, 64)
        self.classify = nn.Linear(64, 6)

    def forward(self, image):
        return self.classify(self.embed(self.body(image).flatten(1)).relu())


torch.manual_seed(0)
data = openset.data.load("digits", known_classes=range(6), valid=0.3)
network = MyNetwork()
optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
for _ in range(20):
    for image, label in data.train.batches(64):
        loss = F.cross_entropy(network(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

tap = Tap(network, layers=["body", "penultimate"])  # "penultimate" is the input of the last layer.
train = openset.extract(tap, data.train)  # One pass, whatever the number of detectors.
detectors = [Energy(), Mahalanobis().fit(train), KNN(k=5).fit(train)]
results = openset.evaluate(tap, detectors, known=data.test, unknown=data.unknown)
rich.print(results.table(["auroc", "fpr_at_95_tpr"]))

model = OpenSet(tap, detectors[2]).calibrate(data.valid, accept=0.95)
print(model.threshold.guarantee())
for name, images in {"known": data.test, "unknown": data.unknown}.items():
    label, score = model(images.images.float() / 255)
    print(f"{name} digits called unknown: {(label == UNKNOWN).float().mean():.1%}")

model.save("my-model")
again = OpenSet.load("my-model", network=MyNetwork())  # The file holds weights, never code.
assert torch.equal(again(images.images.float() / 255)[1], score)
