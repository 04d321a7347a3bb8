"""Cost of every detector's answers about a batch of images beyond the network's forward pass.

    OMP_NUM_THREADS=1 python speed/on_top.py [NETWORK [SIZE [BATCH]]]

The network, and the taps that read no layer or all stages beside it, run in turns; what a model
does with their activations is timed by itself. The smallest of several times counts, in processor
time, so that others may be at work beside it. Detectors that keep training images have 50,000 to
keep. GeMOS has eight full components and one EM step, as what an answer costs does not depend on
more. Those that look again or belong to a network of their own are left out.
"""

import sys

import torch
from latency import CLASSES, images, tell_apart
from turns import seconds

from openset import networks
from openset.activations import Activations
from openset.detectors import DETECTORS, Detector, build
from openset.extractors.extract import extract
from openset.model.open_set import OpenSet
from openset.scoring.views import tap_for

GEMOS = {
    "gemos": "gemos:iterations=1",
    "gemos:reduce=64": "gemos:reduce=64,iterations=1",
}
TRAIN, KEPT = 1000, 50_000


def detectors() -> dict[str, Detector]:
    """Those that any classifier can have, with their defaults, and GeMOS reduced."""
    found = {}
    plain = {name: name for name, kind in DETECTORS.items() if not kind.objectives}
    for name, spec in {**plain, **GEMOS}.items():
        try:
            detector = build(spec)
        except ValueError:  # It needs another network or library.
            continue
        if not detector.looks_again:
            found[name] = detector
    return found


def many(seen: list[Activations]) -> list[Activations]:
    """As many activations as detectors keep, near those that are there."""

    def near(x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * x.std() * torch.randn_like(x) if x.is_floating_point() else x

    return [batch.map(near) for _ in range(KEPT // TRAIN) for batch in seen]


@torch.no_grad()
def main(name: str = "resnet18", size: str = "32", batch: str = "128") -> None:
    torch.manual_seed(0)
    network = networks.build(name, classes=CLASSES, channels=3).eval()
    # As a run leaves it; otherwise the format of the image alone decides how fast it is.
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    train = images(TRAIN, int(size))
    tell_apart(network, train)
    found = detectors()
    tap, plain = tap_for(network, found.values()), tap_for(network, [build("msp")])
    few = extract(tap, train)
    assert isinstance(few, list)
    lots = many(few)
    image = torch.rand(int(batch), 3, int(size), int(size)).to(memory_format=torch.channels_last)
    bare, without, whole = seconds(
        lambda: network(image), lambda: plain(image), lambda: tap(image), repeats=5
    )
    print(
        f"{name}, {size} px, batch of {batch}: forward {1e3 * bare:.0f} ms, tapped without layers "
        f"{without / bare:.3f}, with all stages {whole / bare:.3f}",
        flush=True,
    )
    activations = tap(image)
    for spec, detector in found.items():
        seen = lots if hasattr(detector, "max_rows") else few
        model = OpenSet(tap, detector.fit(seen).adjust(few)).set_threshold(None)
        (decide,) = seconds(lambda m=model: m.decide(activations), repeats=5)
        print(f"{spec:24} {1e3 * decide:7.2f} ms: {1 + decide / bare:.3f} of the pass", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
