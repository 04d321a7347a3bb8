"""Where each training of a border protocol ended: the flow's bits, KL(U ‖ p) by kind of outlier.

    openset benchmark speed/border-mnist.toml --tier cpu --out DIR
    python speed/border.py DIR/work --foreign isun

KL is that of the trained classifier, in nats, a mean over images or over the pixels of pasted
patches: on known test images, on noise, on samples of the companion flow of that seed, the same
blurred, on real foreign images, and on the pixels of left-out classes. Where it is low, the network
has no opinion. Last comes a table of the means over the seeds.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch.nn import functional as F

from openset.activations import UNKNOWN
from openset.data import Adapter, load_images
from openset.networks.device import choose_device
from openset.objectives.patches import Patches
from openset.objectives.synthetic_outliers import uniform_divergence
from openset.runs.run import Run

COUNT = 256
LOGGED = ("bits_per_dimension", "histogram_bits", "difference_bits", "outliers", "deceived")
LENGTHS = ("likelihood_gradient", "pull_gradient")


def foreign(data, shape, device):
    channels, height, width = shape
    found = load_images(data, Adapter((height, width), channels, resize="shorter"))
    few = found.subset(torch.arange(0, len(found), max(1, len(found) // COUNT))[:COUNT])
    return few.images.float().to(device) / 255


def kinds(flow, shape, sets, device):
    """Outliers of each kind, `[COUNT, C, H, W]` in 0…1."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(COUNT, *shape, generator=draw)
    found = {"noise": (noise + 0.5).clamp(0, 1).to(device)}
    if flow is not None:
        found["flow"] = flow.sample(COUNT, shape[1:], draw)
        found["blurred flow"] = F.avg_pool2d(found["flow"], 5, 1, 2, count_include_pad=False)
    return found | {name: foreign(name, shape, device) for name in sets}


def opinions(run, flow, sets, device):
    """KL of the run's network on each kind."""
    network, test = run.load_network().to(device), run.load_data().test
    image, label = test.take(torch.arange(min(COUNT, len(test))))
    image, label = image.to(device).float() / 255, label.to(device)
    side = 4 * round(min(image.shape[2:]) / 24)  # About a sixth of the image.
    patch = (image.shape[1], side, side) if test.dense else tuple(image.shape[1:])
    found = {}
    for name, outliers in {"known": None, **kinds(flow, patch, sets, device)}.items():
        shown, where = image, torch.ones_like(label, dtype=torch.bool)
        if outliers is not None and test.dense:
            torch.manual_seed(0)
            share = side / min(image.shape[2:])
            place = Patches.draw(image, side, label, (share, share))
            shown = place.paste(image, outliers[: len(image)])
            where = place.mark(torch.zeros_like(label)) == UNKNOWN
        elif outliers is not None:
            shown = outliers
            where = torch.ones(len(shown), dtype=torch.bool, device=device)
        elif test.dense:
            where = label >= 0
        divergence = torch.cat([uniform_divergence(network(x)) for x in shown.split(32)])
        found[name] = divergence[where].mean().item()
        if outliers is None and (label == UNKNOWN).any():
            found["left out"] = divergence[label == UNKNOWN].mean().item()
    return found


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> Iterator[str]:
    """The mean over the seeds as Markdown: what was trained down, figures across."""
    columns = dict.fromkeys(key for seeds in found.values() for told in seeds for key in told)
    yield f"| trained | {' | '.join(columns)} |"
    yield f"|---|{'---:|' * len(columns)}"
    for name, seeds in found.items():
        each = [[told[key] for told in seeds if key in told] for key in columns]
        yield f"| {name} | {' | '.join(f'{fmean(x):.3g}' if x else '' for x in each)} |"


@torch.no_grad()
def main(work: Path, sets: Sequence[str]) -> None:
    device = choose_device(None)
    runs = [Run.load(file.parent) for file in sorted(work.glob("runs/*/run.json"))]
    flows = {r.recipe.seed: r for r in runs if r.recipe.objective.startswith("likelihood")}
    found = defaultdict(list)
    for run in runs:
        log = json.loads((run.folder / "log.jsonl").read_text().splitlines()[-1])
        told = {key: log[key] for key in LOGGED if key in log}
        told |= {key: log[key] for key in LENGTHS if key in log}
        if run.recipe.seed not in flows or run is not flows[run.recipe.seed]:
            flow = flows.get(run.recipe.seed)
            flow = flow and flow.load_network().to(device)
            told |= {f"KL {k}": x for k, x in opinions(run, flow, sets, device).items()}
        found[run.recipe.objective].append(told)
        figures = ", ".join(f"{key} {value:.3g}" for key, value in told.items())
        print(f"{run.recipe.objective}, seed {run.recipe.seed}: {figures}", flush=True)
    print("", *table(found), sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--foreign", nargs="*", default=[])
    given = parser.parse_args()
    main(given.work, given.foreign)
