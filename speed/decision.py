"""Cost of p-value and decision beside the network's forward pass.

    OMP_NUM_THREADS=1 python speed/decision.py [NETWORK [SIZE]]

Of one image and of a batch, with one table of 1,000 held-out scores and with one for each of ten
classes. Each decision follows a forward pass, as in use, so it finds the processor's caches full of
the network; alone, in a loop, it would seem to cost far less. What counts is the median share over
such pairs, in processor time. NETWORK is any name that `openset train --network` takes.
"""

import sys
import time

import torch

from openset import networks
from openset.scoring.held_out import HeldOut

CLASSES, HELD_OUT, PAIRS = 10, 5000, 60


def pairs(one, other) -> torch.Tensor:
    """Processor time `[PAIRS, 2]` of both, in turns, after a few for warmth."""
    times = []
    for _ in range(PAIRS + 5):
        began = time.process_time()
        one()
        between = time.process_time()
        other()
        times.append((between - began, time.process_time() - between))
    return torch.tensor(times[5:], dtype=torch.double)


@torch.no_grad()
def main(name: str = "resnet18", size: str = "32") -> None:
    torch.manual_seed(0)
    network = networks.build(name, classes=CLASSES, channels=3).eval()
    for groups in (1, CLASSES):
        held_out = HeldOut().fit([torch.randn(HELD_OUT).sort().values for _ in range(groups)])
        threshold = held_out.threshold(0.95).tensor()
        for count in (1, 64):
            image = torch.rand(count, 3, int(size), int(size))
            score, nearest = torch.randn(count), torch.randint(CLASSES, (count,))

            def decide(score=score, nearest=nearest, threshold=threshold, held_out=held_out):
                applying = threshold[nearest] if len(threshold) > 1 else threshold
                label = torch.where(score <= applying, nearest, -1)
                return label, held_out.p_values(score, nearest)

            times = pairs(lambda image=image: network(image), decide)
            passing, deciding = (1e3 * times.median(0).values).tolist()
            share = (times[:, 1] / times[:, 0]).median().item()
            print(
                f"{name}, {size} px, {count} images, {groups} tables: forward {passing:.1f} ms, "
                f"p-value and decision {deciding:.3f} ms: {share:.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
