"""NumPy archives of images and labels, as MNIST and MedMNIST are passed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from openset.data.batch import as_labels
from openset.data.images import MEMORY_SHARE, memory
from openset.data.labels import Labels, labels_of, share_classes
from openset.data.pixels import Arrays
from openset.data.source import Source, Split, split_in


def read_npz(name: str, file: Path) -> Source:
    """The splits of an archive: of each, an array of images and perhaps one of labels.

    Arrays belong to the split that their name speaks of (`x_train`, `test_images`), else to train.
    The one of three or four dimensions holds the images, `[N, H, W]`, `[N, H, W, C]` or
    `[N, C, H, W]`. Nothing in the archive is executed.

    Raises:
        ValueError: If it is damaged, larger than the memory, or holds no such arrays.
    """
    splits: dict[str, dict[str, np.ndarray]] = {}
    for key, array in _arrays(file).items():
        splits.setdefault(split_in(key) or "train", {})[key] = array
    pixels: dict[str, Arrays] = {}
    labels: dict[str, Labels] = {}
    for split, arrays in splits.items():
        called = f"{name}:{split}"
        image, label = _pair(arrays, called)
        pixels[split] = Arrays(image, called)
        labels[split] = Labels(None, []) if label is None else _labels(label, called)
        if label is not None and len(label) != len(image):
            raise ValueError(f"{called} holds {len(image)} images but {len(label)} labels")
    codes, classes = share_classes(labels)
    return Source(name, {key: Split(pixels[key], codes[key]) for key in pixels}, classes)


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        with ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MEMORY_SHARE * memory():
            raise ValueError(f"its arrays take {size / 2**30:.1f} GiB; give image files instead")
        with np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (BadZipFile, OSError, ValueError, EOFError, MemoryError) as error:
        raise ValueError(f"cannot read {file}: {error}") from error


def _pair(arrays: dict[str, np.ndarray], called: str) -> tuple[Tensor, Any]:
    images = [array for array in arrays.values() if array.ndim in (3, 4)]
    labels = [array for array in arrays.values() if array.ndim in (1, 2)]
    if len(images) != 1 or len(labels) > 1:
        shapes = ", ".join(f"{key} {array.shape}" for key, array in arrays.items())
        raise ValueError(
            f"{called} holds {shapes}; give one array of images [N, H, W, C] and one of labels [N] "
            "for each split, such as x_train, y_train, x_test, y_test"
        )
    image = images[0]
    if image.ndim == 3:
        image = image[..., None]
    if image.shape[-1] in (1, 3, 4):
        image = image.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(image)), labels[0] if labels else None


def _labels(label: np.ndarray, called: str) -> Labels:
    if label.dtype.kind in "US":
        return labels_of(label.ravel().tolist(), called)
    return labels_of(as_labels(torch.from_numpy(label), called).tolist(), called)
