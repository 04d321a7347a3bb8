"""Speed of a model in ONNX Runtime beside the same model in torch, in one run.

    OMP_NUM_THREADS=1 python speed/exported.py [NETWORK [SIZE [BATCH]]]     # the extra `export`

Both answer the same batch on one thread, in turns; the smallest of several times counts, in
processor time, so that others may be at work beside it.
"""

import sys
import tempfile
from pathlib import Path

import onnxruntime
import torch
from latency import CLASSES, HELD_OUT, TRAIN, images, tell_apart
from turns import seconds

from openset import fit, networks
from openset.detectors import build
from openset.model.export import export

DETECTORS = ("msp", "mahalanobis", "gemos:reduce=64,iterations=5")


def main(name: str = "resnet18", size: str = "32", batch: str = "32") -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    side = int(size)
    network = networks.build(name, classes=CLASSES, channels=3).eval()
    # As a run leaves it; otherwise the format of the image alone decides how fast it is.
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    train, held_out = images(TRAIN, side), images(HELD_OUT, side)
    tell_apart(network, train)
    image = torch.rand(int(batch), 3, side, side)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    models = fit(network, {spec: build(spec) for spec in DETECTORS}, train, held_out)
    for spec, model in models.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.onnx")
            apart = export(model, file, (3, side, side))
            session = onnxruntime.InferenceSession(str(file), options)
            given = {
                "image": image.numpy(),
                "threshold": model.get_buffer("values").float().numpy(),
            }
            ours, theirs = seconds(
                lambda m=model: m(image),
                lambda s=session, g=given: s.run(["label", "score"], g),
                repeats=5,
            )
        print(
            f"{name}, {size} px, {batch} images, {spec}: torch {1e3 * ours:.0f} ms, ONNX Runtime "
            f"{1e3 * theirs:.0f} ms: {ours / theirs:.2f} times as fast; scores differ by "
            f"{apart:.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
