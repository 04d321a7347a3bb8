"""Reads another library's preprocessing of pictures as settings of an adapter."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import floor, isclose
from pathlib import Path
from typing import Any, NoReturn

RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by the numbers that Hugging Face's configurations give them."""

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def described(thing: Any) -> dict[str, Any]:
    """Settings of an adapter that does what `thing` describes, without `size` if it names none.

    Args:
        thing: As `Adapter.of` takes it.

    Raises:
        ValueError: Naming what an adapter cannot express.
    """
    own = getattr(thing, "adapter_settings", None)  # A network that openset made by a name.
    if own is not None:
        return own
    thing = _configuration(thing)
    if not isinstance(thing, Mapping):
        return of_preset(thing) if hasattr(thing, "resize_size") else of_transforms(thing)
    if "input_size" in thing:
        return of_timm(thing)
    if any(key in thing for key in ("image_mean", "do_resize", "image_processor_type")):
        return of_processor(thing)
    raise ValueError(
        f"a configuration with the keys {', '.join(map(str, [*thing][:6]))} describes no "
        "preprocessing; give timm's (input_size, …) or Hugging Face's (do_resize, image_mean, …)"
    )


def told_by(network: Any) -> dict[str, Any]:
    """Settings of an adapter that a network carries about itself, as timm's do; empty for others.

    Raises:
        ValueError: As `described` does.
    """
    config = getattr(network, "pretrained_cfg", None)
    if getattr(network, "adapter_settings", None) is not None or config:
        return dict(described(network))
    return {}


def _configuration(given: Any) -> Any:
    """The mapping or the transforms that a file, a network, a processor or weights hold."""
    if isinstance(given, str | Path):
        return _read(Path(given))
    thing: Any = getattr(given, "pretrained_cfg", given)  # A network of timm.
    if dataclasses.is_dataclass(thing):
        return vars(thing)
    if hasattr(thing, "image_mean"):  # A processor of Hugging Face.
        return thing.to_dict()
    weights = callable(getattr(thing, "transforms", None))  # Of a Compose it is a list.
    return thing.transforms() if weights else thing


def _read(path: Path) -> Any:
    path = path / "preprocessor_config.json" if path.is_dir() else path
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot read a preprocessing configuration from {path}: {error}"
        ) from None


def of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of timm's evaluation, from what `resolve_data_config` or a `pretrained_cfg` says."""
    channels, *size = config["input_size"]
    share = config.get("crop_pct") or 0.875
    mode = config.get("crop_mode") or "center"
    resize = {"center": "shorter", "squash": "stretch", "border": "pad"}
    if mode not in resize:
        _refuse(f"timm's crop_mode={mode!r}")
    mean, std = (config.get(key) or IMAGENET[key] for key in ("mean", "std"))
    bars = {"fill": tuple(round(255 * value) for value in mean)} if mode == "border" else {}
    return {
        "size": tuple(size),
        "channels": channels,
        "resize": resize[mode],
        "scaled": tuple(floor(side / share) for side in size),
        "interpolation": config.get("interpolation") or "bicubic",
        "mean": tuple(mean),
        "std": tuple(std),
        **bars,
    }


def of_preset(preset: Any) -> dict[str, Any]:
    """Settings of torchvision's `ImageClassification`, which `weights.transforms()` gives."""
    if not hasattr(preset, "crop_size"):
        _refuse(f"{type(preset).__name__}, which gives each image a size of its own,")
    found = {"mean": tuple(preset.mean), "std": tuple(preset.std)}
    crop = _square(preset.crop_size)
    return found | {"size": crop, **_resized(preset.resize_size, preset.interpolation)}


def of_processor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a Hugging Face image processor, from its configuration."""
    for key in ("do_pad", "do_flip_channel_order", "rescale_offset", "include_top"):
        if config.get(key):
            _refuse(f"{key}={config[key]!r} of this image processor")
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    if kind.startswith("Levit"):
        _refuse(f"the way in which {kind} resizes")
    found = _processor_scale(config)
    if config.get("do_resize", True) and config.get("size") is not None:
        found |= _processor_size(config, kind)
    elif config.get("do_center_crop"):
        _refuse("a centre crop without resizing")
    return found


def _processor_size(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    crops = config.get("do_center_crop", "crop_size" in config)
    size, share = config["size"], config.get("crop_pct")
    if isinstance(size, int):  # As older configurations have it; what it means hangs on the kind.
        square = kind.startswith("DeiT") or not (crops or share)
        size = {"height": size, "width": size} if square else {"shortest_edge": size}
    number = config.get("resample", 2)
    if number not in range(len(RESAMPLE)):
        _refuse(f"an image processor's resample={number!r}")
    filter = {"interpolation": RESAMPLE[number]}
    crop = _processor_crop(config["crop_size"]) if crops and config.get("crop_size") else None
    if {"height", "width"} == {*size}:
        to = (size["height"], size["width"])
        return {**filter, "resize": "stretch", "scaled": to, "size": crop or to}
    if {"shortest_edge"} != {*size}:
        _refuse(f"an image processor's size {dict(size)}")
    side = size["shortest_edge"]
    if share and crop is None:
        crop = (side, side)
        if side >= 384:  # ConvNeXt stretches large images and cuts nothing off.
            return {**filter, "resize": "stretch", "size": crop}
    if crop is None:
        _refuse("resizing the shorter side without a centre crop, which leaves sizes different,")
    to = int(side / share) if share else side
    return {**filter, "resize": "shorter", "scaled": (to, to), "size": crop}


def _processor_crop(size: Any) -> tuple[int, int]:
    return (size["height"], size["width"]) if isinstance(size, Mapping) else _square(size)


def _processor_scale(config: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and std for images in 0…1, whatever the processor scales them to before."""
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    scale = 255 * factor
    scale = 1.0 if isclose(scale, 1) else scale
    normalises = config.get("do_normalize", True) and config.get("image_mean") is not None
    if not normalises and scale == 1:
        return {}
    mean = config["image_mean"] if normalises else [0.0] * 3
    std = config["image_std"] if normalises else [1.0] * 3
    return {
        "channels": len(mean),
        "mean": tuple(value / scale for value in mean),
        "std": tuple(value / scale for value in std),
    }


def of_transforms(transform: Any) -> dict[str, Any]:
    """Settings of a `Compose` of torchvision's transforms, or of a single one."""
    found: dict[str, Any] = {}
    for step in _steps(transform):
        name = type(step).__name__
        if name not in READERS:
            _refuse(f"{name} of these transforms")
        changes = READERS[name](step, found)
        twice = [key for key in changes if key in found and key != "pixels"]
        if twice:
            _refuse(f"{name} after another transform that decides {twice[0]}")
        found |= changes
    if found.pop("pixels", "floats") != "floats":
        _refuse("pixels that stay in 0…255, without ConvertImageDtype or ToDtype(scale=True),")
    if "scaled" in found and "size" not in found:
        if found["resize"] == "shorter":
            _refuse("resizing the shorter side without CenterCrop, which leaves sizes different,")
        found["size"] = found.pop("scaled")
    if len(found.get("mean", ())) == 1:
        found.setdefault("channels", 1)
    return found


def _steps(transform: Any) -> Iterator[Any]:
    """The single transforms of a `Compose`, of one within another, or of an `nn.Sequential`."""
    inner = getattr(transform, "transforms", None)
    if inner is None and type(transform).__name__ == "Sequential":
        inner = transform
    if inner is None:
        yield transform
        return
    for step in inner:
        yield from _steps(step)


def _resize(step: Any, found: dict[str, Any]) -> dict[str, Any]:
    if getattr(step, "max_size", None) is not None:
        _refuse(f"Resize with max_size={step.max_size}")
    if "size" in found:
        _refuse("Resize after CenterCrop")
    if "pixels" in found and getattr(step, "antialias", True) is False:
        _refuse("Resize of a tensor with antialias=False")
    changes = _resized(step.size, step.interpolation)
    if "pixels" in found and changes["interpolation"] == "nearest":
        _refuse(
            "Resize of a tensor by the nearest pixel, which rounds otherwise than of a picture,"
        )
    return changes


def _resized(size: Any, interpolation: Any) -> dict[str, Any]:
    """The settings of torchvision's resizing to one side, or to height and width."""
    one = isinstance(size, int) or len(size) == 1
    name = str(getattr(interpolation, "value", interpolation)).replace("nearest-exact", "nearest")
    return {
        "resize": "shorter" if one else "stretch",
        "scaled": _square(size),
        "interpolation": name,
    }


def _keep_ratio(step: Any, found: dict[str, Any]) -> dict[str, Any]:
    if step.longest not in (0, 1) or step.random_scale_prob or step.random_aspect_prob:
        _refuse(f"{step!r}")
    changes = _resized(step.size, step.interpolation)
    if changes["scaled"][0] == changes["scaled"][1] and step.longest == 0:
        _refuse(f"{step!r}, which rounds otherwise than Resize,")
    return {**changes, "resize": "pad" if step.longest else "shorter"}


def _centre_crop(step: Any, found: dict[str, Any]) -> dict[str, Any]:
    if "scaled" not in found:
        _refuse(f"{type(step).__name__} without Resize before it")
    fill = getattr(step, "fill", 0)
    fill = tuple(fill) if isinstance(fill, Iterable) else (fill,) * 3
    return {"size": _square(step.size), **({"fill": fill} if any(fill) else {})}


def _normalise(step: Any, found: dict[str, Any]) -> dict[str, Any]:
    return {"mean": tuple(map(float, step.mean)), "std": tuple(map(float, step.std))}


def _grey(step: Any, found: dict[str, Any]) -> dict[str, Any]:
    if step.num_output_channels != 1:
        _refuse(f"Grayscale with {step.num_output_channels} output channels")
    return {"channels": 1}


def _to_dtype(step: Any, found: dict[str, Any]) -> dict[str, Any]:
    dtype = step.dtype
    scales = getattr(step, "scale", True)  # ConvertImageDtype always does.
    if isinstance(dtype, Mapping) or not dtype.is_floating_point or not scales:
        _refuse(f"{type(step).__name__} to anything but floats in 0…1 (scale=True)")
    return {"pixels": "floats"}


READERS: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
    "Resize": _resize,
    "ResizeKeepRatio": _keep_ratio,
    "CenterCrop": _centre_crop,
    "CenterCropOrPad": _centre_crop,
    "Normalize": _normalise,
    "Grayscale": _grey,
    "RGB": lambda step, found: {"channels": 3},
    "ToTensor": lambda step, found: {"pixels": "floats"},
    "MaybeToTensor": lambda step, found: {"pixels": "floats"},
    "PILToTensor": lambda step, found: {"pixels": "bytes"},
    "MaybePILToTensor": lambda step, found: {"pixels": "bytes"},
    "ToImage": lambda step, found: {"pixels": "bytes"},
    "ConvertImageDtype": _to_dtype,
    "ToDtype": _to_dtype,
    "ToPureTensor": lambda step, found: {},
    "Identity": lambda step, found: {},
}
"""Functions from a transform and the settings found before it to those it adds, by its name."""


def _square(size: Any) -> tuple[int, int]:
    """Height and width, of a side or of one or two of them in a list."""
    sides = [size] if isinstance(size, int) else list(size)
    return int(sides[0]), int(sides[-1])


def _refuse(what: str) -> NoReturn:
    raise ValueError(
        f"{what} cannot be expressed by an adapter, which resizes, cuts the centre out, and knows "
        "one mean and std; prepare such images beforehand, or write Adapter(size, …) by hand"
    )
