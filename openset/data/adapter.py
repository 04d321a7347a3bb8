"""One declared way from any picture to the tensor that a network was trained on."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from openset.spec import call

LONGEST = 2**15
"""Pixels of the longest side that an image may be brought to."""

Picture = Image.Image | np.ndarray | Tensor


@dataclass(frozen=True)
class Adapter:
    """Turns any picture into a uint8 tensor of one size and channel count.

    A run declares it once; it is stored with the model and applied to every image scored later.
    Grey becomes RGB by repeating and RGB becomes grey by ITU-R 601 weights. Transparent pictures
    are laid on white. 16-bit pixels keep their upper 8 bits.

    Args:
        size: Height and width.
        channels: 1 or 3.
        invert: Turn every pixel x into 255 − x before resizing, for dark-on-light pictures that are
            compared with light-on-dark ones.
        resample: Filter used where the size differs, antialiased: `"bilinear"`, `"bicubic"`,
            `"lanczos"`, `"box"` or `"nearest"`.

    Example:
        >>> adapter = Adapter(size=(28, 28), channels=1)
        >>> adapter(np.zeros((105, 105, 3), dtype=np.uint8)).shape
        torch.Size([1, 28, 28])
    """

    size: tuple[int, int]
    channels: int = 3
    invert: bool = False
    resample: str = "bilinear"

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

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of what comes out."""
        return (self.channels, *self.size)

    def settings(self) -> dict[str, Any]:
        """The settings as JSON can hold them; `from_settings` reads them back."""
        return {**asdict(self), "size": list(self.size)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """The adapter that `settings` describes."""
        return call("adapter", cls, settings)

    def __call__(self, picture: Picture) -> Tensor:
        """A uint8 tensor `[C, H, W]` of a PIL image, an array `[H, W(, C)]` or tensor `[C, H, W]`.

        Raises:
            ValueError: For shapes or types that are no picture, and for NaN or infinite pixels.
        """
        image = picture if isinstance(picture, Image.Image) else to_pil(picture)
        image = _plain(image, "L" if self.channels == 1 else "RGB")
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
        return self(open_picture(file, name))

    def mask(self, picture: Image.Image) -> Tensor:
        """A uint8 tensor `[H, W]` of a mask whose pixel values are classes; resized by nearest."""
        if picture.mode not in ("L", "P", "1"):
            raise ValueError(
                f"a mask has mode {picture.mode}; give one channel whose values are classes"
            )
        if picture.size != (self.size[1], self.size[0]):
            picture = picture.resize((self.size[1], self.size[0]), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(picture, dtype=np.uint8))


def open_picture(file: str | Path | bytes, name: str = "") -> Image.Image:
    """A picture read wholly, upright as its EXIF says; `name` stands for bytes in errors."""
    name = name or (f"an image of {len(file)} bytes" if isinstance(file, bytes) else str(file))
    data = b""
    try:
        data = file if isinstance(file, bytes) else Path(file).read_bytes()
        image = Image.open(io.BytesIO(data))
        image.load()
        return ImageOps.exif_transpose(image) if "exif" in image.info else image
    except FileNotFoundError:
        raise ValueError(f"no such image: {name}") from None
    except Exception as error:  # decoders raise whatever they stumble on
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "it is no image that Pillow knows" if data else "the file is empty"
        raise ValueError(
            f"cannot read {name}: {reason}; repair or remove it (predict --skip-bad leaves it out)"
        ) from error


def to_pil(array: np.ndarray | Tensor) -> Image.Image:
    """A PIL image of an array `[H, W]` or `[H, W, C]`, or of a tensor `[H, W]` or `[C, H, W]`."""
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.permute(1, 2, 0) if array.dim() == 3 else array).numpy()
        expected = "a tensor [C, H, W]"
    else:
        expected = "an array [H, W, C]"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(
            f"a picture has shape {array.shape}; give {expected} or [H, W] with 1, 3 or 4 channels"
        )
    return Image.fromarray(to_uint8(array))


def to_uint8(array: np.ndarray, name: str = "a picture") -> np.ndarray:
    """Pixels as uint8: floats in 0…1 are scaled, 16-bit ones keep their upper bits."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} holds {array.dtype}; give uint8 in 0…255 or floats in 0…1")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite pixels; give floats in 0…1")
    if array.size and (array.min() < 0 or array.max() > 1):
        raise ValueError(
            f"{name} holds pixels in {array.min():g}…{array.max():g}; give floats in 0…1 or "
            "uint8 in 0…255"
        )
    return np.rint(array * 255).astype(np.uint8)


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """The picture in mode L or RGB, from whatever mode it was stored in."""
    if image.mode == mode:
        if "transparency" not in image.info:
            return image
    elif image.mode.startswith(("I", "F")):
        array = np.asarray(image)
        if image.mode != "F":
            array = array.clip(0, 65535).astype(np.uint16)
        image = Image.fromarray(to_uint8(array))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
