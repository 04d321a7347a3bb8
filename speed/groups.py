"""Groups among rejected images against the classes that they are of.

    OPENSET_DATA=… python speed/groups.py RUN --out FILE.csv [--detector D…] [--unknown DATA]

RUN is a run that left classes out, such as `openset train ylecun/mnist --known-classes 0-4 …`, or
DATA names labelled images of other classes. Known and unknown test images are shown together. The
figure is the adjusted mutual information of groups and classes (1 is perfect, 0 is chance), of all
rejected images, where those in no group count as one group more, and of those in groups alone; each
known class counts as a class.
"""

import argparse
from pathlib import Path

import pandas
import torch
from sklearn.metrics import adjusted_mutual_info_score

from openset.data.sources import DataName, open_source
from openset.data.splits import image_set
from openset.life.discover import discover
from openset.networks.device import choose_device
from openset.runs.run import Run

DETECTORS = ("knn", "gemos", "vmdls-b")


def classes_of(run: Run, unknown: str | None):
    """Test images of known and unknown classes, with a label for each class of both."""
    data = run.load_data()
    if unknown is None:
        source = open_source(DataName.parse(run.recipe.data))
        classes = list(range(len(source.classes)))
        return image_set(source, source.splits["test"], run.adapter, classes), None
    source = open_source(DataName.parse(unknown))
    split = source.splits[str(source.find("test", "valid", "train"))]
    strange = image_set(source, split, run.adapter, list(range(len(source.classes))))
    return data.test, strange


def main(folder: str, detectors: list[str], unknown: str | None, out: Path, device) -> None:
    run = Run.load(folder)
    network = run.load_network().to(choose_device(device))
    first, more = classes_of(run, unknown)
    images, label = first.images, first.labels
    if more is not None:
        images = torch.cat([images, more.images])
        label = torch.cat([label, more.labels + 1000])
    rows = []
    for detector in detectors:
        if detector not in run.models:
            run.fit([detector], run.load_data(), network)
        found = discover(run.load_model(detector, network=network), images)
        group = torch.full((len(images),), -1)
        for c, one in enumerate(found.groups):
            group[list(one.positions)] = c
        alone = torch.tensor(found.alone, dtype=torch.long)
        together = (group >= 0).nonzero().squeeze(1)
        everyone = torch.cat([together, alone])
        figures = [
            adjusted_mutual_info_score(label[part].numpy(), group[part].numpy())
            for part in (everyone, together)
        ]
        rows.append(
            {
                "detector": detector, "images": len(images), "rejected": found.rejected,
                "groups": len(found.groups), "classes rejected": len(label[everyone].unique()),
                "in groups": f"{len(together) / found.rejected:.3f}",
                "AMI of all": f"{figures[0]:.3f}", "AMI in groups": f"{figures[1]:.3f}",
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--detector", action="append")
    parser.add_argument("--unknown")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device")
    given = parser.parse_args()
    main(given.run, given.detector or [*DETECTORS], given.unknown, given.out, given.device)
