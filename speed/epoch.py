"""Time of an epoch of VMDLS against one of softmax on the same backbone, in one run.

    OMP_NUM_THREADS=1 python speed/epoch.py                    # plain CNN, 28×28 grey
    OMP_NUM_THREADS=1 python speed/epoch.py --network resnet18 --channels 3 --size 32

Both train in `openset.train` on the same random images in batches of 160, in turns. Compared is the
median time of an epoch; of a CPU the time that it worked, so that others may be at work beside it.
The paper puts VMDLS at about four times softmax.
"""

import argparse
import statistics
import time

import torch

from openset import networks
from openset.objectives import VMDLS, CrossEntropy
from openset.training.loop import train

CLASSES, BATCH = 10, 160


def clock():
    """Seconds of this process; on a GPU, of the clock on the wall."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def epoch(objective, images, precision):
    """Seconds from an epoch's start to its end, without what comes before and after."""
    marks = []
    start, finish = objective.start_epoch, objective.finish
    objective.start_epoch = lambda number: (start(number), marks.append(clock()))
    objective.finish = lambda batches: (marks.append(clock()), finish(batches))[1]
    train(
        objective,
        [images],
        epochs=1,
        batch_size=BATCH,
        optimizer="adam",
        lr=1e-4,
        precision=precision,
        channels_last=True,
        progress=False,
    )
    return marks[1] - marks[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="plain-cnn")
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    count = options.steps * BATCH
    image = torch.rand(count, options.channels, options.size, options.size)
    images = (image, torch.arange(count) % CLASSES)
    times = {CrossEntropy: [], VMDLS: []}
    for _ in range(1 + options.turns):
        for kind, found in times.items():
            network = networks.build(options.network, classes=CLASSES, channels=options.channels)
            found.append(epoch(kind(network), images, options.precision))
    # The first turn pays for what is set up once.
    softmax, vmdls = (statistics.median(found[1:]) for found in times.values())
    each = 1000 / options.steps
    print(
        f"{options.network}, {options.precision}, {torch.get_num_threads()} threads: "
        f"softmax {softmax * each:.0f} ms, VMDLS {vmdls * each:.0f} ms per step of {BATCH} "
        f"images; ratio {vmdls / softmax:.2f}"
    )


if __name__ == "__main__":
    main()
