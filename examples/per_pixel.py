"""A network that labels pixels tells which of them belong to nothing it knows.

The scenes are 2×2 digits on paper. Digits 0–5 are known; a test scene may hold 6–9, whose ink
should be called unknown. Nothing differs from whole images but the shape of labels and scores.
"""

import rich
import torch
from torch import nn

import openset
from openset import UNKNOWN, VOID, OpenSet, Tap
from openset.detectors import Energy, Entropy, MaxSoftmax

SIDE = 2


def scenes(images, labels, count, seed):
    """Scenes `[N, 1, 16, 16]` of random digits and their label maps; only ink is labelled."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(images), (count * SIDE**2,), generator=generator)
    image = images[chosen].float() / 255
    label = labels[chosen].view(-1, 1, 1, 1).where(image > 0.4, VOID)
    return together(image, count), together(label, count)[:, 0]


def together(tiles, count):
    """Tiles `[N·4, 1, 8, 8]` side by side, `[N, 1, 16, 16]`."""
    rows = tiles.view(count, SIDE, SIDE, 8, 8).transpose(2, 3)
    return rows.reshape(count, 1, SIDE * 8, SIDE * 8)


def layer(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


data = openset.data.load("digits", known_classes=range(6))
train = [scenes(data.train.images, data.train.labels, 64, seed) for seed in range(12)]
valid = [scenes(data.valid.images, data.valid.labels, 64, seed=12)]
mixed = torch.cat([data.test.images, data.unknown.images])
labels = torch.cat([data.test.labels, data.unknown.labels])
test = [scenes(mixed, labels, 64, seed) for seed in (13, 14)]

torch.manual_seed(0)
network = nn.Sequential(*layer(1, 32), *layer(32, 32), *layer(32, 32), nn.Conv2d(32, 6, 1))
objective = openset.objectives.CrossEntropy(network)
openset.train(objective, train, epochs=12, optimizer="adam", lr=0.005, batch_size=32)

tap = Tap(network)  # `test` holds known and unknown pixels, so it stands for both.
results = openset.evaluate(tap, [MaxSoftmax(), Entropy(), Energy()], known=test, unknown=test)
rich.print(results.table(["miou", "ap", "auroc"]))

model = OpenSet(tap, Entropy()).calibrate(valid, accept=0.9)
image, truth = test[0]
label, score = model(image)
for name, pixels in {"known": truth >= 0, "unknown": truth == UNKNOWN}.items():
    print(f"{name} ink called unknown: {(label[pixels] == UNKNOWN).float().mean():.1%}")
