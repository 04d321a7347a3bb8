"""Networks of timm, torchvision and segmentation-models-pytorch, imported only when asked for."""

from __future__ import annotations

import functools
import importlib
import inspect
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

IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


POOLING = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")


OPERATORS = ("nms", "qnms", *POOLING, *(f"_{name}_backward" for name in POOLING))
"""The compiled operators that torchvision's Python code registers something for on import."""


class External(nn.Module):
    """Another library's network behind `normalize`, so that it takes images in 0…1.

    Args:
        network: From normalised images to logits, or to a dictionary with the logits in `"out"`.
        mean: Each channel's mean in 0…1; three values serve other channel counts by their average.
        std: Each channel's standard deviation.
        channels: Channels of the image.
        adapter_settings: How the library itself prepares images for this network, as
            `Adapter(**settings)` takes it; None where it does not say.
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
    ):
        super().__init__()
        self.normalize = Normalize(_per_channel(mean, channels), _per_channel(std, channels))
        self.network = network
        self.adapter_settings = adapter_settings
        self.stages = tuple(f"network.{path}" for path in find_stages(network))

    def forward(self, image: Tensor) -> Tensor:
        output = self.network(self.normalize(image))
        return output["out"] if isinstance(output, dict) else output


@described
def timm(
    model: str,
    classes: int,
    channels: int = 3,
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
    return _prepared(network, preprocessing_of(config), channels=channels)


@described
def torchvision(model: str, classes: int, channels: int = 3, pretrained: bool = False) -> External:
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
    return _prepared(network, preparation)


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
    classes: int,
    channels: int = 3,
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
    return External(network, channels=channels)


def import_library(name: str) -> Any:
    """Imports a library that rests on torchvision, beside whatever build of torch is there.

    Raises:
        ValueError: If it is not installed; says what to install.
    """
    try:
        _mend_torchvision()
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        extra = "peers" if name == "pytorch_ood" else "vision"
        raise ValueError(
            f"{name} cannot be imported ({error}); install it: pip install 'openset[{extra}]'"
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
