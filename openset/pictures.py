"""Label maps, score maps and overlays as pictures."""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from openset.activations import UNKNOWN, VOID

UNKNOWN_COLOUR = (255, 0, 255)
"""Colour of unknown: magenta, which no class has."""


VOID_COLOUR = (0, 0, 0)


def palette(classes: int) -> np.ndarray:
    """A colour for each class, then unknown's and void's, uint8 `[classes + 2, 3]`.

    Hues go from red to blue, far from magenta; neighbours are in turn light and dark.
    """
    hues = [0.7 * i / max(classes - 1, 1) for i in range(classes)]
    values = [(0.95, 0.55, 0.75)[i % 3] for i in range(classes)]
    known = [colorsys.hsv_to_rgb(hue, 0.75, value) for hue, value in zip(hues, values, strict=True)]
    colours = [[round(255 * x) for x in colour] for colour in known]
    return np.array([*colours, UNKNOWN_COLOUR, VOID_COLOUR], dtype=np.uint8)


def label_picture(label: Tensor, classes: int) -> Image.Image:
    """A label map `[H, W]` as a picture with a palette: index = class, then unknown, then void."""
    index = label.clone()
    index[label == UNKNOWN] = classes
    index[label == VOID] = classes + 1
    picture = Image.fromarray(index.to(torch.uint8).cpu().numpy(), "P")
    picture.putpalette(palette(classes).flatten().tolist())
    return picture


def overlay(image: Tensor, label: Tensor, classes: int, opacity: float = 0.5) -> Image.Image:
    """An image `[C, H, W]` in 0…1 under the colours of its label map `[H, W]`."""
    colours = label_picture(label, classes).convert("RGB")
    return Image.blend(image_picture(image), colours, opacity)


def image_picture(image: Tensor) -> Image.Image:
    """An image `[C, H, W]` in 0…1 in colour."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def score_picture(score: Tensor, low: float, high: float) -> Image.Image:
    """A score map `[H, W]`, from dark at `low` to bright at `high`."""
    from matplotlib import colormaps

    share = ((score.double() - low) / max(high - low, 1e-12)).clamp(0, 1).cpu().numpy()
    return Image.fromarray((colormaps["inferno"](share)[..., :3] * 255).astype(np.uint8))


def limits(score: Tensor) -> tuple[float, float]:
    """Scores at which a map's colours begin and end: all but its lowest and highest hundredth."""
    ends = np.quantile(score.double().flatten().cpu().numpy(), [0.01, 0.99])
    return float(ends[0]), float(ends[1])


def enlarged(score: Tensor, size: tuple[int, int]) -> Tensor:
    """A score map `[H, W]` at another size, bilinearly."""
    return F.interpolate(score[None, None], size, mode="bilinear", align_corners=False)[0, 0]
