"""One declared way from any picture to the tensor that a network was trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from openset.data.decode import open_picture, shown
from openset.data.modes import DEPTHS, plain, to_pil
from openset.spec import call

LONGEST = 2**15
"""Pixels of the longest side that an image may be brought to."""

Picture = Image.Image | np.ndarray | Tensor


@dataclass(frozen=True)
class Adapter:
    """Turns any picture into a uint8 tensor of one size and channel count.

    A run declares it once; it is stored with the model and applied to every image scored later.
    Grey becomes RGB by repeating and RGB becomes grey by ITU-R 601 weights. Transparent pictures
    are laid on white. Pixels of more than 8 bits keep the upper 8 of `bits`.

    Args:
        size: Height and width.
        channels: 1 or 3.
        invert: Turn every pixel x into 255 − x before resizing, for dark-on-light pictures that are
            compared with light-on-dark ones.
        resample: Filter used where the size differs, antialiased: `"bilinear"`, `"bicubic"`,
            `"lanczos"`, `"box"` or `"nearest"`.
        bits: Bits per pixel of pictures stored in 16, of which cameras and scanners often use 10,
            12 or 14. Where it is None, a picture that seems to use fewer than 16 is refused.

    Example:
        >>> adapter = Adapter(size=(28, 28), channels=1)
        >>> adapter(np.zeros((105, 105, 3), dtype=np.uint8)).shape
        torch.Size([1, 28, 28])
    """

    size: tuple[int, int]
    channels: int = 3
    invert: bool = False
    resample: str = "bilinear"
    bits: int | None = None

    def __post_init__(self):
        if len(self.size) != 2 or not 1 <= min(self.size) <= max(self.size) <= LONGEST:
            raise ValueError(
                f"size is {self.size}; give (height, width) of 1 to {LONGEST} pixels each"
            )
        height, width = self.size  # a list where it comes from JSON
        object.__setattr__(self, "size", (int(height), int(width)))
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; give 1 (grey) or 3 (RGB)")
        if self.resample.upper() not in Image.Resampling.__members__:
            raise ValueError(
                f"resample is {self.resample!r}; give one of "
                f"{', '.join(name.lower() for name in Image.Resampling.__members__)}"
            )
        if self.bits not in (None, *DEPTHS):
            raise ValueError(f"bits is {self.bits!r}; give one of {', '.join(map(str, DEPTHS))}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of what comes out."""
        return (self.channels, *self.size)

    def settings(self) -> dict[str, Any]:
        """The settings as JSON can hold them; `from_settings` reads them back."""
        settings = {**asdict(self), "size": list(self.size)}
        return {key: value for key, value in settings.items() if key != "bits" or value is not None}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """The adapter that `settings` describes."""
        return call("adapter", cls, settings)

    def __call__(self, picture: Picture) -> Tensor:
        """A uint8 tensor `[C, H, W]` of a PIL image, an array `[H, W(, C)]` or tensor `[C, H, W]`.

        Raises:
            ValueError: For shapes or types that are no picture, and for NaN or infinite pixels.
        """
        image = picture if isinstance(picture, Image.Image) else to_pil(picture, self.bits)
        image = plain(image, "L" if self.channels == 1 else "RGB", self.bits)
        if self.invert:
            image = ImageOps.invert(image)
        if image.size != (self.size[1], self.size[0]):
            filter = Image.Resampling[self.resample.upper()]
            image = image.resize((self.size[1], self.size[0]), filter)
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if self.channels == 1 else pixels.permute(2, 0, 1)

    def open(self, file: str | Path | bytes, name: str = "") -> Tensor:
        """A uint8 tensor `[C, H, W]` of an image file, given by path or as its bytes.

        Raises:
            ValueError: Naming the file that is missing, empty, corrupt or no image.
        """
        name = name or (
            f"an image of {len(file)} bytes" if isinstance(file, bytes) else shown(file)
        )
        image = open_picture(file, name)
        try:
            return self(image)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def mask(self, picture: Image.Image) -> Tensor:
        """A uint8 tensor `[H, W]` of a mask whose pixel values are classes; resized by nearest."""
        if picture.mode not in ("L", "P", "1"):
            raise ValueError(
                f"a mask has mode {picture.mode}; give one channel whose values are classes"
            )
        if picture.size != (self.size[1], self.size[0]):
            picture = picture.resize((self.size[1], self.size[0]), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(picture, dtype=np.uint8))
