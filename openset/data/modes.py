"""Converts pixels of any type and mode to 8 bits, grey or RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

DEPTHS = (8, 10, 12, 14, 16)
"""Bits per pixel that images stored in 16 bits may use."""


def to_pil(array: np.ndarray | Tensor, bits: int | None = None) -> Image.Image:
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
    return Image.fromarray(to_uint8(array, bits=bits))


def to_uint8(array: np.ndarray, name: str = "a picture", bits: int | None = None) -> np.ndarray:
    """Pixels as uint8: floats in 0…1 are scaled, those of 16 bits keep the upper 8 of `bits`."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return upper_bits(array, name, bits)
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


def upper_bits(array: np.ndarray, name: str, bits: int | None) -> np.ndarray:
    """The upper 8 of `bits` bits of integers, as uint8.

    Raises:
        ValueError: For pixels outside `bits`, or that seem to use fewer than 16 where it is None.
    """
    lowest, highest = int(array.min(initial=0)), int(array.max(initial=0))
    if lowest < 0 or highest >= 2 ** (bits or 16):
        raise ValueError(
            f"{name} holds pixels in {lowest}…{highest}, outside the 0…{2 ** (bits or 16) - 1} of "
            f"{bits or 16} bits; say how many bits are used (bits=16)"
        )
    if bits is None and highest and depth_of(highest) < 16:
        raise ValueError(
            f"{name} holds pixels of at most {highest} in 16 bits, as {depth_of(highest)}-bit data "
            f"would; say how many bits are used: Adapter(…, bits={depth_of(highest)}), or bits=16"
        )
    return (array >> ((bits or 16) - 8)).astype(np.uint8)


def depth_of(highest: int) -> int:
    """The fewest bits of `DEPTHS` that hold a value."""
    return next((bits for bits in DEPTHS if highest < 2**bits), DEPTHS[-1])


def highest_deep(image: Image.Image) -> int | None:
    """The largest pixel of a picture stored in 16 bits; None for other pictures."""
    if image.mode.startswith("I"):
        return int(np.asarray(image).max(initial=0))
    return None


def plain(image: Image.Image, mode: str, bits: int | None = None) -> Image.Image:
    """The picture in mode L or RGB, from whatever mode it was stored in."""
    if image.info.get("upper bits of 16"):
        _refuse_shallow(image, bits)
    if image.mode == mode:
        if "transparency" not in image.info:
            return image
    elif image.mode == "F":
        image = Image.fromarray(to_uint8(np.asarray(image)))
    elif image.mode.startswith("I"):
        image = Image.fromarray(upper_bits(np.asarray(image), "a picture", bits))
    return on_white(image, mode) if image.has_transparency_data else image.convert(mode)


BAND = 2**20
"""Number of pixels laid on white at once, which takes several copies of them."""


def on_white(image: Image.Image, mode: str) -> Image.Image:
    """A transparent picture on white, in mode L or RGB."""
    out = Image.new(mode, image.size)
    width, height = image.size
    step = max(1, BAND // width)
    for top in range(0, height, step):
        band = image.crop((0, top, width, min(top + step, height))).convert("RGBA")
        band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band)
        out.paste(band.convert(mode), (0, top))
    return out


def _refuse_shallow(image: Image.Image, bits: int | None) -> None:
    """Raises where colours of fewer than 16 bits lie in 16, of which Pillow reads the upper 8."""
    highest = int(np.asarray(image.convert("RGB")).max(initial=0))
    if bits != 16 and 0 < highest < 2**6:
        raise ValueError(
            f"a picture holds 16-bit colours of at most {highest} in the upper 8 bits, as data of "
            "12 bits would; store it in 8 bits per colour, or say Adapter(…, bits=16)"
        )
