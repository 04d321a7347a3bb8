"""Small pages that need nothing beside them: their pictures are inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from openset.pictures import image_picture

SIDE = 96
"""The longest side of a picture on a page, in pixels."""


def picture_of(image: Tensor) -> str:
    """An image `[C, H, W]`, of uint8 or in 0…1, as the address of a picture inside the page."""
    floats = image if image.is_floating_point() else image / 255
    return address_of(image_picture(floats))


def address_of(picture: Image.Image, side: int = SIDE) -> str:
    """A picture as the address that holds it; small ones are enlarged, pixel by pixel."""
    scale = side / max(picture.size)
    way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    file = io.BytesIO()
    picture.resize(size, way).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def write_page(template: str, path: Path, facts: Mapping[str, Any]) -> None:
    """Fills a template of this folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # Slow to import.

    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    path.write_text(pages.get_template(template).render(facts), encoding="utf-8")
