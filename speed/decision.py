"""Cost of p-value and decision beside the network's forward pass.

    OMP_NUM_THREADS=1 python speed/decision.py [NETWORK [SIZE]]

Of one image and of a batch, with one table of 1,000 held-out scores and with one for each of ten
classes. Both run in turns; the smallest of many times counts, in processor time. NETWORK is any
name that `openset train --network` takes.
"""

import sys

import torch
from turns import seconds

from openset import networks
from openset.scoring.held_out import HeldOut

CLASSES, HELD_OUT, REPEATS = 10, 5000, 25


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

            passing, deciding = seconds(lambda image=image: network(image), decide, repeats=REPEATS)
            print(
                f"{name}, {size} px, {count} images, {groups} tables: forward "
                f"{1e3 * passing:.1f} ms, p-value and decision {1e3 * deciding:.2f} ms: "
                f"{deciding / passing:.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
