"""Images of your own, as a `torch.utils.data.Dataset` of (image, label).

Any data set, loader or list of batches takes the place of a name such as `"digits"`: for training,
fitting, calibrating and evaluating. Labels are 0…K−1; unknown images need none, -1 stands for it.
"""

import rich
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset

import openset
from openset import UNKNOWN, OpenSet, Tap
from openset.detectors import Energy, GeMOS

KNOWN = [1, 3, 5, 7, 9]


class MyImages(Dataset):
    """Reads whatever you have, image by image: floats `[C, H, W]` in 0…1, and a class number."""

    def __init__(self, part, digits):
        source = load_digits()
        self.rows = [
            i for i, digit in enumerate(source.target) if digit in digits and i % 5 in part
        ]
        self.images, self.targets = source.images, source.target

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        image = torch.from_numpy(self.images[row]).float()[None] / 16
        digit = self.targets[row]
        return image, KNOWN.index(digit) if digit in KNOWN else UNKNOWN


train, valid = MyImages({0, 1, 2}, KNOWN), MyImages({3}, KNOWN)
test, unknown = MyImages({4}, KNOWN), MyImages({4}, {0, 2, 4, 6, 8})
print(f"{len(train)} images to learn from, {len(valid)} to calibrate, {len(test)} to test")

torch.manual_seed(0)
network = openset.networks.cnn(classes=len(KNOWN), channels=1, widths=(16, 32), hidden=64)
objective = openset.objectives.CrossEntropy(network)
openset.train(objective, train, epochs=15, optimizer="adam", lr=0.002, batch_size=64)

tap = Tap(network, layers=network.stages)
loader = DataLoader(train, batch_size=128)  # With workers, pinned memory or a sampler as you like.
gemos = GeMOS("gaussian-mixture:components=1").fit(openset.extract(tap, loader))
found = openset.evaluate(tap, [Energy(), gemos], known=test, unknown={"even digits": unknown})
rich.print(found.table(["accuracy", "auroc"]))

model = OpenSet(tap, gemos, classes=[f"the digit {c}" for c in KNOWN]).calibrate(valid, accept=0.9)
label, score = model(torch.stack([unknown[0][0], test[0][0]]))
for name, c in zip(["an even digit", "an odd digit"], label.tolist(), strict=True):
    print(f"{name} is called {'unknown' if c == UNKNOWN else model.classes[c]}")
