"""One declared way from any picture to the tensor that a network was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from openset.data.decode import open_picture, shown
from openset.data.modes import DEPTHS, plain, to_pil
from openset.data.preprocessing import described
from openset.data.shapes import RESIZES, centred, scaled_size
from openset.spec import call

LONGEST = 2**15
"""Pixels of the longest side that an image may be brought to."""

Picture = Image.Image | np.ndarray | Tensor

INTERPOLATIONS = {filter.name.lower(): filter for filter in Image.Resampling}
"""Pillow's filters by the names that transforms give them."""

MASK_FILL = 255
"""Mask value of the bars beside a picture: the one that data sets leave out."""


@dataclass(frozen=True)
class Adapter:
    """Turns any picture into a uint8 tensor of one size and channel count.

    A run declares it once; it is stored with the model and applied to every image scored later.
    Grey becomes RGB by repeating and RGB becomes grey by ITU-R 601 weights. Transparent pictures
    are laid on white. Pixels of more than 8 bits keep the upper 8 of `bits`. A picture is resized,
    and its centre of `size` is cut out.

    `mean` and `std` are not applied here, for images stay in 0…1 everywhere: they say how the
    network wants its input normalised, and belong inside it:
    `nn.Sequential(networks.Normalize(adapter.mean, adapter.std), network)`.

    Args:
        size: Height and width of what comes out.
        channels: 1 or 3.
        invert: Turn every pixel x into 255 − x before resizing, for dark-on-light pictures that are
            compared with light-on-dark ones.
        interpolation: Filter used where the size differs, antialiased as Pillow does: `"bilinear"`,
            `"bicubic"`, `"lanczos"`, `"box"`, `"hamming"` or `"nearest"`.
        bits: Bits per pixel of pictures stored in 16, of which cameras and scanners often use 10,
            12 or 14. Where it is None, a picture that seems to use fewer than 16 is refused.
        resize: `"stretch"` changes the aspect; `"shorter"` keeps it, and the centre is cut out;
            `"pad"` keeps it, and bars are added.
        scaled: Height and width that a picture is resized to before its centre is cut out, such as
            (256, 256) for a size of (224, 224); None for `size` itself.
        fill: What bars are filled with, in 0…255: a value per channel, or None for black.
        mean: Each channel's mean in 0…1 that the network wants taken off; None for nothing.
        std: Each channel's standard deviation that the network wants its input divided by.

    Example:
        >>> adapter = Adapter(size=(28, 28), channels=1)
        >>> adapter(np.zeros((105, 105, 3), dtype=np.uint8)).shape
        torch.Size([1, 28, 28])
        >>> print(Adapter((224, 224), resize="shorter", scaled=(256, 256)))
        shorter side to 256 (bilinear), centre of 224 × 224, RGB
    """

    size: tuple[int, int]
    channels: int = 3
    invert: bool = False
    interpolation: str = "bilinear"
    bits: int | None = None
    resize: str = "stretch"
    scaled: tuple[int, int] | None = None
    fill: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self):
        object.__setattr__(self, "size", _two("size", self.size))
        if self.scaled is not None:
            scaled = _two("scaled", self.scaled)
            object.__setattr__(self, "scaled", None if scaled == self.size else scaled)
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; give 1 (grey) or 3 (RGB)")
        _check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        _check_choice("resize", self.resize, RESIZES)
        if self.bits not in (None, *DEPTHS):
            raise ValueError(f"bits is {self.bits!r}; give one of {', '.join(map(str, DEPTHS))}")
        for name, values in (("fill", self.fill), ("mean", self.mean), ("std", self.std)):
            if values is not None:
                object.__setattr__(self, name, _per_channel(name, values, self.channels))
        if self.fill is not None and not all(0 <= value <= 255 for value in self.fill):
            raise ValueError(f"fill is {self.fill}; give values in 0…255")
        if not all(map(isfinite, (*(self.mean or ()), *(self.std or ())))) or 0 in (self.std or ()):
            raise ValueError(
                f"mean is {self.mean} and std {self.std}; give finite numbers, and no std of 0"
            )

    @classmethod
    def of(cls, thing: Any, **changes: Any) -> Self:
        """The adapter that does to a picture what another library's preprocessing does.

        The mean and std that it ends with come along as `mean` and `std`, to be put inside the
        network. The pixels are the same where Pillow resizes; of what resizes tensors they differ
        by 1 of 255, in bicubic by a few.

        Args:
            thing: A network of `networks.build("timm:…")` or of timm itself, or its configuration
                (`resolve_data_config`, `pretrained_cfg`); torchvision's weights or
                `weights.transforms()`; a `Compose` of torchvision's transforms, old or v2, as used
                to evaluate; a Hugging Face image processor, its configuration, or the path of its
                `preprocessor_config.json` or folder.
            changes: Settings in place of those found, such as `size` where nothing is resized.

        Raises:
            ValueError: Naming what an adapter cannot express.

        Example:
            >>> adapter = Adapter.of({"input_size": (3, 224, 224), "crop_pct": 0.875})
            >>> print(adapter, adapter.mean)
            shorter side to 256 (bicubic), centre of 224 × 224, RGB (0.485, 0.456, 0.406)
        """
        found = {**described(thing), **changes}
        if "size" not in found:
            raise ValueError(
                f"{type(thing).__name__} resizes nothing, so images would keep the size they are "
                "stored in; say it: Adapter.of(…, size=(height, width))"
            )
        return cls(**found)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of what comes out."""
        return (self.channels, *self.size)

    def settings(self) -> dict[str, Any]:
        """The settings as JSON can hold them; `from_settings` reads them back."""
        plain = {key: list(x) if isinstance(x, tuple) else x for key, x in asdict(self).items()}
        return {key: x for key, x in plain.items() if key in ALWAYS or x != _DEFAULTS[key]}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """The adapter that `settings` describes."""
        names = {"resample": "interpolation"}  # As models that were saved earlier call it.
        renamed = {names.get(key, key): value for key, value in settings.items()}
        return call("adapter", cls, renamed)

    def __repr__(self) -> str:
        given = {key: x for key, x in vars(self).items() if key == "size" or x != _DEFAULTS[key]}
        return f"Adapter({', '.join(f'{key}={value!r}' for key, value in given.items())})"

    def __str__(self) -> str:
        height, width = self.size
        to = self.scaled or self.size
        side = to[0] if to[0] == to[1] else f"{to[0]} × {to[1]}"
        way = {
            "stretch": f"stretched to {to[0]} × {to[1]} ({self.interpolation})",
            "shorter": f"shorter side to {side} ({self.interpolation})",
            "pad": f"longer side to {side} ({self.interpolation}), bars",
        }[self.resize]
        centre = self.resize == "shorter" or self.scaled is not None
        cut = [f"centre of {height} × {width}"] if centre else []
        inverted = ["inverted"] if self.invert else []
        return ", ".join([way, *cut, *inverted, "grey" if self.channels == 1 else "RGB"])

    @property
    def whole(self) -> bool:
        """Whether every picture is kept whole, without a cut or bars, whatever its size."""
        return self.resize == "stretch" and self.scaled is None

    def leaves(self, height: int, width: int) -> bool:
        """Whether a picture of this size is neither resized nor cut."""
        return (height, width) == self.size == self._scaled(height, width)

    def __call__(self, picture: Picture) -> Tensor:
        """A uint8 tensor `[C, H, W]` of a PIL image, an array `[H, W(, C)]` or tensor `[C, H, W]`.

        Raises:
            ValueError: For shapes or types that are no picture, and for NaN or infinite pixels.
        """
        pixels = torch.from_numpy(np.array(self.show(picture)))
        return pixels[None] if self.channels == 1 else pixels.permute(2, 0, 1)

    def show(self, picture: Picture | str | Path | bytes) -> Image.Image:
        """The picture that the network gets to see, of an image or of an image file.

        Raises:
            ValueError: As a call and as `open` do.
        """
        if isinstance(picture, str | Path | bytes):
            picture = open_picture(picture)
        image = picture if isinstance(picture, Image.Image) else to_pil(picture, self.bits)
        image = plain(image, "L" if self.channels == 1 else "RGB", self.bits)
        if self.invert:
            image = ImageOps.invert(image)
        fill = self.fill or (0,) * self.channels
        return self._placed(image, INTERPOLATIONS[self.interpolation], fill)

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
        """A uint8 tensor `[H, W]` of a mask whose pixel values are classes; resized by nearest.

        It is cut as a picture is; bars are filled with 255.
        """
        if picture.mode not in ("L", "P", "1"):
            raise ValueError(
                f"a mask has mode {picture.mode}; give one channel whose values are classes"
            )
        picture = self._placed(picture, Image.Resampling.NEAREST, (MASK_FILL,))
        return torch.from_numpy(np.array(picture, dtype=np.uint8))

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        return scaled_size((height, width), self.scaled or self.size, self.resize)

    def _placed(
        self, image: Image.Image, filter: Image.Resampling, fill: tuple[int, ...]
    ) -> Image.Image:
        height, width = self._scaled(image.height, image.width)
        if image.size != (width, height):
            image = image.resize((width, height), filter)
        return centred(image, self.size, fill)


ALWAYS = ("size", "channels", "invert", "interpolation")
"""Settings that are written even where they have their defaults."""

_DEFAULTS = {field.name: field.default for field in fields(Adapter)}


def _two(name: str, size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or not 1 <= min(size) <= max(size) <= LONGEST:
        raise ValueError(f"{name} is {size}; give (height, width) of 1 to {LONGEST} pixels each")
    height, width = size  # A list where it comes from JSON.
    return int(height), int(width)


def _check_choice(name: str, choice: str, choices: Iterable[str]) -> None:
    if choice not in choices:
        raise ValueError(f"{name} is {choice!r}; give one of {', '.join(choices)}")


def _per_channel(name: str, values: Sequence[Any], channels: int) -> tuple[Any, ...]:
    if len(values) != channels:
        raise ValueError(f"{name} has {len(values)} values for {channels} channels; give one each")
    return tuple(values)
