"""Computes the size to which a picture is resized, and cuts out its centre."""

from __future__ import annotations

from PIL import Image

RESIZES = ("stretch", "shorter", "pad")
"""Ways to resize a picture whose aspect ratio is not that of its target."""

Size = tuple[int, int]
"""Height and width in pixels."""


def scaled_size(size: Size, target: Size, resize: str) -> Size:
    """Height and width to which a picture of `size` is resized, rounded as torchvision and timm do.

    Raises:
        ValueError: For a picture so long that, resized, it would not fit into memory.

    Example:
        >>> scaled_size((100, 201), (50, 50), "shorter"), scaled_size((100, 201), (50, 50), "pad")
        ((50, 100), (25, 50))
    """
    if resize == "stretch":
        return target
    height, width = size
    if resize == "shorter" and target[0] == target[1]:
        # torchvision's Resize cuts the longer side off; timm's for other targets rounds.
        short, longer = target[0], int(target[0] * max(size) / min(size))
        found = (short, longer) if height <= width else (longer, short)
    else:
        choose = min if resize == "shorter" else max
        ratio = choose(height / target[0], width / target[1])
        found = (max(1, round(height / ratio)), max(1, round(width / ratio)))
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and found[0] * found[1] > most:
        raise ValueError(
            f"a picture of {height} × {width} pixels would become one of {found[0]} × {found[1]}, "
            f"more than the {most} that may be decoded; cut it, or take resize='stretch'"
        )
    return found


def centred(image: Image.Image, size: Size, fill: tuple[int, ...]) -> Image.Image:
    """The centre of a picture, with bars of `fill` beside it where it is smaller than `size`."""
    if image.size == size[::-1]:
        return image
    top, left = _start(image.height, size[0]), _start(image.width, size[1])
    colour = fill if len(fill) > 1 else fill[0]  # pyright: ignore[reportGeneralTypeIssues]
    out = Image.new(image.mode, (size[1], size[0]), colour)
    if image.mode == "P":
        out.putpalette(image.getpalette() or [])
    out.paste(image, (-left, -top))
    return out


def _start(have: int, want: int) -> int:
    """First pixel of a span of `want` in the middle of `have`, rounded as CenterCrop does."""
    return round((have - want) / 2) if have >= want else -((want - have) // 2)
