"""Reads an image file, or its bytes, into a picture; refuses at once what is not an image."""

from __future__ import annotations

import io
import os
import stat
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from openset.text import encodable

# `refuse_huge` says it in a sentence; a user's own filter for this warning still comes first.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def shown(path: str | Path) -> str:
    """A path in printable form: bytes in it that are not UTF-8 read `\\xff`."""
    return encodable(os.fspath(path))


def open_picture(file: str | Path | bytes, name: str = "") -> Image.Image:
    """A picture read wholly, upright as its EXIF says.

    Args:
        file: The path of an image file, or its content as bytes.
        name: Name of the file in errors; its path by default.

    Raises:
        ValueError: For a file that is missing, empty, corrupt, too large or no image.
    """
    if isinstance(file, bytes):
        return _decoded(io.BytesIO(file), name or f"an image of {len(file)} bytes")
    name = name or shown(file)
    check_file(file)
    try:
        stream = open(file, "rb")  # noqa: SIM115
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror or error}") from error
    with stream:
        return _decoded(stream, name)


def check_file(path: str | Path) -> None:
    """Raises a `ValueError` for all but regular files: reading a pipe or a device may not end."""
    if path == "":
        raise ValueError("an image has an empty name; give the path of an image file")
    name = shown(path)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"no such image: {name}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {name}: {error}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise ValueError(f"{name} is {kind}; give an image file")


def _decoded(stream: BinaryIO, name: str) -> Image.Image:
    try:
        image = Image.open(stream)
        refuse_huge(image)
        if image.format == "EPS":
            raise ValueError("EPS is a program that another one would have to run")
        deep = image.mode[0] not in "IF" and any(";16" in str(tile[3]) for tile in image.tile)
        image.load()
        image.info["upper bits of 16"] = deep
        return ImageOps.exif_transpose(image) if "exif" in image.info else image
    except Exception as error:  # decoders raise whatever they stumble on
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            empty = not stream.seek(0, os.SEEK_END)
            reason = "the file is empty" if empty else "it is no image that Pillow knows"
        elif isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            reason = f"it has more than the {Image.MAX_IMAGE_PIXELS} pixels that may be decoded; "
            reason += "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS"
        raise ValueError(
            f"cannot read {name}: {reason}; repair or remove it (--skip-bad leaves it out)"
        ) from error


def refuse_huge(image: Image.Image) -> None:
    """Raises where the header names more than `PIL.Image.MAX_IMAGE_PIXELS`, as Pillow itself may.

    A file of a few hundred kB may claim gigabytes, so nothing is decoded before.
    """
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        raise Image.DecompressionBombError
