"""A class added from 5, 20 and 100 images: how often it is right, and what the others lose.

    OPENSET_DATA=… python speed/few_images.py RUN --out FILE.csv [--detector D…] [--fit-on N]

RUN is a run whose data has one class more than it knows, such as
`openset train ylecun/mnist --known-classes 0-8 …`. Images of that class to learn from are drawn
from the training split, in three draws; all are tested on the test split. The threshold accepts
95 %. The network sees each image once, for all detectors, which --fit-on lets learn from so many
training images, evenly drawn.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas
import torch

from openset import Activations, OpenSet, extract
from openset.data import ImageSet
from openset.data.sources import DataName, open_source
from openset.data.splits import image_set
from openset.life.add_class import add_class
from openset.runs.run import Run
from openset.scoring.views import tap_for

DETECTORS = ("mahalanobis", "knn", "vmdls-b", "gemos")
COUNTS, DRAWS = (5, 20, 100), 3


def labels(model: OpenSet, seen: list[Activations]) -> torch.Tensor:
    return torch.cat([model.decide(batch)[0].cpu() for batch in seen])


def share(marks: torch.Tensor) -> float:
    return float(marks.float().mean())


@torch.no_grad()
def measured(detector: str, model: OpenSet, left_out: ImageSet, seen: dict) -> list[dict]:
    true, place = torch.cat([batch.labels for batch in seen["test"]]), len(model.classes or ())
    known, strange = labels(model, seen["test"]), labels(model, seen["unknown"])
    right = share(known == true)
    rows = [
        {
            "detector": detector, "images": 0, "new right": "", "new unknown": share(strange < 0),
            "old right": right, "old called new": "", "moved of held-out": "",
        }
    ]  # fmt: skip
    for count in COUNTS:
        for draw in range(DRAWS):
            order = torch.randperm(len(left_out), generator=torch.Generator().manual_seed(draw))
            added = add_class(model, "new", left_out.subset(order[:count]), seen["valid"])
            known = labels(added.model, seen["test"])
            strange = labels(added.model, seen["unknown"])
            rows.append(
                {
                    "detector": detector, "images": count, "new right": share(strange == place),
                    "new unknown": share(strange < 0),
                    "old right": share(known == true),
                    "old called new": share(known == place),
                    "moved of held-out": (added.moved or 0) / max(1, added.known),
                }
            )  # fmt: skip
    return rows


def mean_of(rows: list[dict]) -> list[dict]:
    """One row for each detector and count: the mean over the draws."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["detector"], row["images"]), []).append(row)
    found = []
    for same in groups.values():
        row = dict(same[0])
        for name, value in row.items():
            if isinstance(value, float):
                row[name] = f"{sum(each[name] for each in same) / len(same):.4f}"
        found.append(row)
    return found


def main(
    folder: str, detectors: list[str], out: Path, device: str | None, fit_on: int | None
) -> None:
    from openset.networks.device import choose_device

    run = Run.load(folder)
    network = run.load_network().to(choose_device(device))
    source = open_source(DataName.parse(str(run.recipe.data)))
    whole = image_set(source, source.splits["train"], run.adapter, list(range(len(source.classes))))
    (name,) = [c for c in source.classes if c not in run.classes]
    left_out = whole.subset(whole.labels == source.classes.index(name))
    data = run.load_data()
    step = -(-len(data.train) // (fit_on or len(data.train)))
    data = replace(data, train=data.train.subset(torch.arange(0, len(data.train), step)))
    if missing := [name for name in detectors if name not in run.models]:
        run.fit(missing, data, network)
    models = {name: run.load_model(name, network=network) for name in detectors}
    tap = tap_for(network, [model.detector for model in models.values()])
    parts = {"valid": data.valid, "test": data.test, "unknown": data.unknown}
    seen = {name: extract(tap, images) for name, images in parts.items()}
    rows = []
    for name, model in models.items():
        rows += mean_of(measured(name, model, left_out, seen))
        print(*rows[-1 - len(COUNTS) :], sep="\n", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--detector", action="append")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device")
    parser.add_argument("--fit-on", type=int)
    given = parser.parse_args()
    main(given.run, given.detector or [*DETECTORS], given.out, given.device, given.fit_on)
