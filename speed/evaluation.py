"""Cost of evaluating six detectors beyond the passes through the network that they need.

    OPENSET_DATA=… python speed/evaluation.py

The passes are a plain one and what ODIN's definition asks for: a gradient with respect to the image
and a second look. Both sides run over the same decoded images, in turns; the smallest of several
runs counts. "cpu" is processor time.
"""

import time

import torch
from torch.nn import functional as F

from openset import networks
from openset.data import load, load_images
from openset.detectors import build
from openset.evaluation.evaluate import evaluate
from openset.model.fit import fit
from openset.objectives import CrossEntropy
from openset.training.loop import train

DETECTORS = ("msp", "max-logit", "energy", "odin", "mahalanobis", "gemos")


def timed(run):
    """Wall and processor seconds of a run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def passes(network, sets, epsilon: float = 0.0014, temperature: float = 1000.0) -> None:
    """The bare passes: plain, and ODIN's gradient and second look."""
    for images in sets:
        for image, _ in images.batches(256):
            with torch.no_grad():
                network(image)
        for image, _ in images.batches(256):
            image.requires_grad_()
            logits = network(image) / temperature
            loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, image)
            with torch.no_grad():
                network(image - epsilon * gradient.sign())


def main(images: int = 10_000, turns: int = 3) -> None:
    torch.manual_seed(0)
    data = load(f"ylecun/mnist,limit={images}")
    network = train(CrossEntropy(networks.cnn(classes=10, channels=1)), data, epochs=1, lr=0.05)
    models = fit(network, {name: build(name) for name in DETECTORS}, data.train, data.valid)
    unknown = load_images(f"tanganke/kmnist,limit={images // 2}", data.adapter)
    sets = [data.test, unknown]
    for each in sets:
        each.images  # noqa: B018  Decoded once, for both sides.

    def ours() -> None:
        evaluate(models, known=data.test, unknown={"kmnist": unknown})

    columns = [[timed(lambda: passes(network, sets)), timed(ours)] for _ in range(turns)]
    (bare, bare_cpu), (whole, whole_cpu) = (
        [min(column) for column in zip(*side, strict=True)] for side in zip(*columns, strict=True)
    )
    print(
        f"{len(data.test) + len(unknown):,} images, {len(DETECTORS)} detectors: {whole:.1f} s, the "
        f"bare passes {bare:.1f} s: {whole / bare:.3f}× (cpu {whole_cpu / bare_cpu:.3f}×)"
    )


if __name__ == "__main__":
    main()
