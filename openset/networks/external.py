"""Networks of timm, torchvision and segmentation-models-pytorch, imported only when asked for."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from openset.data.preprocessing import described as preprocessing_of
from openset.errors import unknown_name
from openset.networks.base import Normalize, described
from openset.networks.layers import find_stages
from openset.networks.outputs import logits_of
from openset.spec import Count

IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


POOLING = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")


OPERATORS = ("nms", "qnms", *POOLING, *(f"_{name}_backward" for name in POOLING))
"""The compiled operators that torchvision's Python code registers something for on import."""


class External(nn.Module):
    """Another library's network behind `normalize`, so that it takes images in 0…1.

    Args:
        network: From normalised images to logits, or to what `logits_of` finds them in.
        mean: Each channel's mean in 0…1; three values serve other channel counts by their average.
        std: Each channel's standard deviation.
        channels: Channels of the image.
        adapter_settings: How the library itself prepares images for this network, as
            `Adapter(**settings)` takes it; None where it does not say.
        pretrained: Whether its weights were learned behind this mean and deviation, which then
            stay whatever images it is trained on further.
    """

    stages: tuple[str, ...]

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        *,
        channels: int = 3,
        adapter_settings: dict[str, Any] | None = None,
        pretrained: bool = False,
    ):
        super().__init__()
        self.normalize = Normalize(_per_channel(mean, channels), _per_channel(std, channels))
        self.network = network
        self.adapter_settings, self.pretrained = adapter_settings, pretrained
        self.stages = tuple(f"network.{path}" for path in find_stages(network))

    def forward(self, image: Tensor) -> Tensor:
        return logits_of(self.network(self.normalize(image)))


@described
def timm(
    model: str,
    classes: Count,
    channels: Count = 3,
    pretrained: bool = False,
    image_size: int | None = None,
) -> External:
    """A classifier of timm: `timm:resnet18`, `timm:vit_tiny_patch16_224,image_size=32`.

    Args:
        model: timm's name of it.
        classes: The number of known classes.
        channels: Channels of the image.
        pretrained: Download timm's weights, all but the head's if the classes differ.
        image_size: Side of the image, for networks made for one size; None for their own.
    """
    library = import_library("timm")
    if not library.is_model(model):
        raise ValueError(unknown_name("timm network", model, library.list_models()))
    sized = {} if image_size is None else {"img_size": image_size}
    with _making(f"timm:{model}"):
        network = library.create_model(
            model, pretrained=pretrained, num_classes=classes, in_chans=channels, **sized
        )
    config = dict(network.pretrained_cfg)
    sides = [image_size] * 2 if image_size else (config.get("input_size") or (3, 224, 224))[1:]
    config["input_size"] = (channels, *sides)
    config |= {key: _per_channel(config[key], channels) for key in ("mean", "std")}
    return _prepared(network, preprocessing_of(config), channels=channels, pretrained=pretrained)


@described
def torchvision(
    model: str, classes: Count, channels: Count = 3, pretrained: bool = False
) -> External:
    """A classifier or a segmentation network of torchvision, for colour images.

    Args:
        model: torchvision's name of it, such as `resnet18` or `deeplabv3_resnet50`.
        classes: The number of known classes.
        channels: 3, the only number that torchvision's networks take.
        pretrained: Download the weights: all but the head's if the classes differ, and only the
            encoder's for segmentation.
    """
    models = import_library("torchvision").models
    if model not in models.list_models():
        raise ValueError(unknown_name("torchvision network", model, models.list_models()))
    if channels != 3:
        raise ValueError(
            f"torchvision's networks take 3 channels, not {channels}; convert the images to "
            "colour, or take timm:NAME"
        )
    with _making(f"torchvision:{model}"):
        network = _torchvision_network(models, model, classes, pretrained)
    try:
        preparation = preprocessing_of(models.get_model_weights(model).DEFAULT)
    except ValueError:  # That of segmentation leaves each image a size of its own.
        preparation = {}
    return _prepared(network, preparation, pretrained=pretrained)


def _torchvision_network(models: Any, model: str, classes: int, pretrained: bool) -> nn.Module:
    if "weights_backbone" in inspect.signature(models.get_model_builder(model)).parameters:
        # Left out, torchvision would download the encoder's weights by default.
        encoder = "DEFAULT" if pretrained else None
        return models.get_model(model, weights=None, weights_backbone=encoder, num_classes=classes)
    network = models.get_model(model, weights=None, num_classes=classes)
    if pretrained:
        _load_fitting(network, models.get_model_weights(model).DEFAULT.get_state_dict())
    return network


@described
def smp(
    model: str,
    classes: Count,
    channels: Count = 3,
    encoder: str = "resnet34",
    pretrained: bool = False,
) -> External:
    """A segmentation network of segmentation-models-pytorch: `smp:unet,encoder=resnet18`.

    Args:
        model: The architecture's name, such as `unet`, `fpn` or `deeplabv3plus`.
        classes: The number of known classes.
        channels: Channels of the image.
        encoder: The encoder's name.
        pretrained: Download the encoder's ImageNet weights.
    """
    library = import_library("segmentation_models_pytorch")
    architectures, encoders = library.MODEL_ARCHITECTURES_MAPPING, library.encoders.encoders
    if model not in architectures:
        raise ValueError(unknown_name("smp network", model, architectures))
    # "tu-NAME" is timm's NAME; with a colon in it timm would look on the hub.
    if encoder not in encoders and (":" in encoder or not encoder.startswith("tu-")):
        raise ValueError(unknown_name("smp encoder", encoder, encoders))
    with _making(f"smp:{model}"):
        network = library.create_model(
            model,
            encoder_name=encoder,
            encoder_weights="imagenet" if pretrained else None,
            in_channels=channels,
            classes=classes,
        )
    return External(network, channels=channels, pretrained=pretrained)


def transformers(
    model: str, classes: int, channels: int = 3, pretrained: bool = False
) -> nn.Module:
    """A network of Hugging Face's transformers, by its hub id or the folder that it is kept in.

    It classifies images, or labels pixels where its configuration says that it is made for that.

    Args:
        model: The hub id, such as `google/vit-base-patch16-224`, or a folder with `config.json`.
        classes: The number of known classes.
        channels: Channels of the image.
        pretrained: Load its weights, all but the head's if the classes differ.
    """
    library = import_library("transformers")
    sizes = {"num_labels": classes, "num_channels": channels}
    with _making(f"transformers:{model}"):
        config = library.AutoConfig.from_pretrained(model, trust_remote_code=False, **sizes)
        network = described_transformer(model, json.dumps(config.to_dict()), channels)
        if pretrained:
            given = {"config": config, "ignore_mismatched_sizes": True, "use_safetensors": True}
            network.network = _auto(library, config).from_pretrained(model, **given)
            network.pretrained = True
        _normalize_as(network, library, model, channels)
    return network


@functools.partial(described, name="transformers")
def described_transformer(model: str, config: str, channels: int = 3) -> External:
    """A network of transformers by its configuration alone, as a saved model holds it.

    Nothing is read: neither a file nor the hub, whatever the configuration names.

    Args:
        model: What it was called; says nothing of how it is made.
        config: The configuration as JSON text.
        channels: Channels of the image.
    """
    library = import_library("transformers")
    told = json.loads(config)
    if any(told.get(key) for key in ("backbone", "use_pretrained_backbone", "use_timm_backbone")):
        raise ValueError(f"transformers:{model} rests on another network, which is not made here")
    kept = {k: x for k, x in told.items() if k not in ("_name_or_path", "auto_map")}
    with _making(f"transformers:{model}"):
        settings = library.AutoConfig.for_model(**kept)
        return External(_auto(library, settings).from_config(settings), channels=channels)


def _auto(library: Any, config: Any) -> Any:
    """The family of transformers' networks that a configuration is made for."""
    pixels = any("Segmentation" in name for name in config.architectures or ())
    kind = "SemanticSegmentation" if pixels else "ImageClassification"
    return getattr(library, f"AutoModelFor{kind}")


def _normalize_as(network: External, library: Any, model: str, channels: int) -> None:
    """Takes mean and standard deviation from the images' processor, where the model has one."""
    try:
        processor = library.AutoImageProcessor.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError):
        return  # ImageNet's stay.
    mean = getattr(processor, "image_mean", None) or IMAGENET_MEAN
    std = getattr(processor, "image_std", None) or IMAGENET_STD
    network.normalize = Normalize(_per_channel(mean, channels), _per_channel(std, channels))


def import_library(name: str) -> Any:
    """Imports a library that may rest on torchvision, beside whatever build of torch is there.

    Raises:
        ValueError: If it is not installed; says what to install.
    """
    try:
        if name != "transformers" or importlib.util.find_spec("torchvision"):
            _mend_torchvision()
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        own = {"pytorch_ood": "'openset[peers]'", "transformers": "transformers"}
        install = own.get(name, "'openset[vision]'")
        raise ValueError(
            f"{name} cannot be imported ({error}); install it: pip install {install}"
        ) from error


@functools.cache
def _mend_torchvision() -> None:
    """Makes torchvision importable where its compiled operators do not load.

    That is so beside a CPU build of torch. Its Python code asks for them on import, so they are
    declared, without an implementation; torchvision itself refuses to run them.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        _declared.append(library)
        for operator in OPERATORS:
            library.define(f"{operator}(Tensor input) -> Tensor")
        importlib.import_module("torchvision")
        logging.getLogger(__name__).warning(
            "torchvision's compiled operators do not load beside this build of torch; "
            "its networks work, box operators such as nms do not"
        )


_declared: list[torch.library.Library] = []
"""Keeps the declarations: they end with the object that made them."""


@contextmanager
def _making(what: str) -> Iterator[None]:
    """Says in one sentence what a library could not make, or could not download."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ValueError(f"cannot make {what}: {error}") from error


def _prepared(network: nn.Module, preparation: dict[str, Any], **how: Any) -> External:
    """The network behind the mean and std of its library's preparation, with the rest noted."""
    inside = ("mean", "std")
    given = {key: preparation[key] for key in inside if key in preparation}
    noted = {key: value for key, value in preparation.items() if key not in inside}
    return External(network, **given, **how, adapter_settings=noted or None)


def _per_channel(values: Sequence[float], channels: int) -> list[float]:
    if len(values) == channels:
        return list(values)
    return [sum(values) / len(values)] * channels


def _load_fitting(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads the weights whose shapes fit; a head for other classes stays as it is."""
    own = network.state_dict()
    fitting = {key: x for key, x in state.items() if key in own and own[key].shape == x.shape}
    network.load_state_dict(fitting, strict=False)
