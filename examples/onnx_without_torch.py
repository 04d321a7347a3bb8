"""A model as one ONNX file, used where neither torch nor openset is installed.

Three commands write the file. `label_files`, run in a process of its own, needs onnxruntime, numpy
and Pillow alone: all else that it must know stands in the file.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

COMMANDS = (
    "train digits --known-classes 0-5 --valid 0.3 --network cnn:widths=16+32,hidden=64 "
    "--epochs 15 --optimizer adam --lr 0.002 --batch-size 64 --out run",
    "fit run --detector energy --accept 0.95",
    "export run --detector energy --out model.onnx",
)


def label_files(model, paths):
    """Yields the class's name, or "unknown", with score, threshold and p-value of each file."""
    session = onnxruntime.InferenceSession(model)
    about = session.get_modelmeta().custom_metadata_map
    facts = {key: json.loads(about[f"openset.{key}"]) for key in ("classes", "adapter")}
    threshold = np.float32([json.loads(about["openset.threshold"])["value"]])
    height, width = facts["adapter"]["size"]
    for path in paths:
        grey = Image.open(path).convert("L").resize((width, height), Image.Resampling.BILINEAR)
        image = np.asarray(grey, np.float32)[None, None] / 255
        (label,), (score,), (p,) = session.run(None, {"image": image, "threshold": threshold})
        name = "unknown" if label < 0 else facts["classes"][label]
        yield name, float(score), float(threshold[0]), float(p)


def main():
    """Writes the model and some digits as files, and labels them in another process."""
    from sklearn.datasets import load_digits

    for command in COMMANDS:
        subprocess.run([sys.executable, "-m", "openset", *command.split()], check=True)
    source = load_digits()
    for image, digit in zip(source.images[-10:], source.target[-10:], strict=True):
        Image.fromarray(np.uint8(image * 15.9)).save(f"a-{digit}.png")
    files = sorted(map(str, Path().glob("a-*.png")))
    subprocess.run([sys.executable, __file__, "model.onnx", *files], check=True)


if sys.argv[1:]:
    model, *files = sys.argv[1:]
    for file, (name, *figures) in zip(files, label_files(model, files), strict=True):
        score, threshold, p = figures
        print(f"{file}: {name}, score {score:.2f}, threshold {threshold:.2f}, p {p:.3f}")
    print(f"torch was imported: {'torch' in sys.modules}")
else:
    main()
