"""Small unknown images cut or shrunk from larger ones, as TinyImageNet (crop) and (resize) were."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openset.data.adapter import open_picture, to_pil
from openset.data.columns import quiet
from openset.data.folders import image_files
from openset.files import complete_folder

Make = Callable[[Tensor, torch.Generator], tuple[Tensor, str]]
"""Function from an image `[3, H, W]`, uint8, to a smaller one and a suffix of its name."""


def crop(
    source: str | Path, out: str | Path, *, size: int = 32, count: int | None = None, seed: int = 0
) -> Path:
    """Writes a random square of each image of a folder, with its pixels unchanged.

    In the manner of Liang et al., *Enhancing the Reliability of Out-of-distribution Image Detection
    in Neural Networks*, 2018, https://arxiv.org/abs/1706.02690.

    Args:
        source: Any folder of images, such as TinyImageNet's of 64×64; subfolders are searched.
        out: The new folder, in Hugging Face layout: `openset evaluate RUN --unknown OUT` reads it.
        size: Side of the square.
        count: Take a random sample of so many images; None takes all.
        seed: Decides sample and places.

    Raises:
        ValueError: If there are too few images, or one is smaller than the square.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> source, out = tempfile.mkdtemp(), tempfile.mkdtemp()
        >>> Image.new("RGB", (64, 64), "red").save(f"{source}/red.png")
        >>> [path.name for path in crop(source, out).rglob("*.parquet")]
        ['test-00000-of-00001.parquet']
    """

    def cut(image: Tensor, generator: torch.Generator) -> tuple[Tensor, str]:
        height, width = image.shape[1:]
        if min(height, width) < size:
            raise ValueError(f"is {height}×{width}; a crop needs at least {size}×{size} pixels")
        top = int(torch.randint(height - size + 1, (), generator=generator))
        left = int(torch.randint(width - size + 1, (), generator=generator))
        return image[:, top : top + size, left : left + size], f"_{top}_{left}"

    return _write(source, out, count, seed, cut)


def resize(
    source: str | Path,
    out: str | Path,
    *,
    size: int = 32,
    count: int | None = None,
    seed: int = 0,
    antialias: bool = True,
) -> Path:
    """Writes each image of a folder reduced to a small square, by a bicubic filter.

    Without antialiasing, fine detail folds into coarse patterns that no photograph has. A detector
    can find those instead of the unknown content, so compare both before trusting either.

    Args:
        source: As in `crop`.
        out: As in `crop`.
        size: Side of the result.
        count: As in `crop`.
        seed: Decides the sample.
        antialias: Whether the image is smoothed before pixels are left out.

    Raises:
        ValueError: If there are too few images.
    """

    def reduce(image: Tensor, generator: torch.Generator) -> tuple[Tensor, str]:
        small = F.interpolate(
            image[None].float(), (size, size), mode="bicubic", antialias=antialias
        )
        return small[0].round().clamp(0, 255).byte(), ""

    return _write(source, out, count, seed, reduce)


def _write(source: str | Path, out: str | Path, count: int | None, seed: int, make: Make) -> Path:
    """A parquet folder with one image column, complete or absent."""
    from datasets import Dataset, Features, Image

    files, generator = image_files(Path(source)), torch.Generator().manual_seed(seed)
    if not files or len(files) < (count or 0):
        raise ValueError(f"{source} holds {len(files)} images; needed are {count or 1}")
    chosen = torch.randperm(len(files), generator=generator)[:count].sort().values.tolist()
    cells = list(_made([files[i] for i in chosen], generator, make))
    table = Dataset.from_dict({"image": cells}, features=Features({"image": Image()}))
    with complete_folder(out) as folder:
        (folder / "data").mkdir()
        with quiet():
            table.to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return Path(out)


def _made(files: list[Path], generator: torch.Generator, make: Make) -> Iterator[dict[str, object]]:
    """The cells of the image column: PNG bytes, and a name that tells where they are from."""
    for file in files:
        pixels = torch.from_numpy(np.array(open_picture(file).convert("RGB"))).permute(2, 0, 1)
        try:
            made, suffix = make(pixels, generator)
        except ValueError as error:
            raise ValueError(f"{file} {error}") from None
        buffer = io.BytesIO()
        to_pil(made).save(buffer, format="PNG")
        yield {"bytes": buffer.getvalue(), "path": f"{file.stem}{suffix}.png"}
