"""From a trained network to a calibrated model, in one call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openset.activations import UNKNOWN
from openset.data import Adapter, batches
from openset.data.preprocessing import told_by
from openset.detectors import Detector, build
from openset.model.fit import fit
from openset.model.open_set import OpenSet
from openset.networks.base import normalised, normalises
from openset.networks.device import device_of
from openset.networks.outputs import logits_of
from openset.networks.watch import bare, evaluating
from openset.spec import as_names


def wrap(
    network: nn.Module,
    train: Any,
    held_out: Any,
    detector: str | Detector = "fusion",
    accept: float = 0.95,
    *,
    per_class: bool = False,
    classes: Sequence[str] | None = None,
    adapter: Any = None,
    layers: Sequence[str] | None = None,
    head: str | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 256,
) -> OpenSet:
    """Makes a trained network say "unknown": fits a detector and sets its threshold.

    The network stays as it is. Of `held_out` your word is taken that no training has seen it; the
    threshold's guarantee rests on that.

    Args:
        network: A trained classifier, of images `[N, C, H, W]` in 0…1.
        train: The known images it was trained on, with labels: an image set, a data set of (image,
            label), a loader or a list of batches.
        held_out: Known images that it was not trained on, with labels, in the same forms.
        detector: A detector or its name with settings, such as `gemos:components=4`.
        accept: The share of known images to accept.
        per_class: Whether to set one threshold for each predicted class.
        classes: Names of the classes, in the order of the labels; by default those that `train`
            says it has.
        adapter: Turns an image file into the network's input: an `Adapter`, or what `Adapter.of`
            takes, such as torchvision's weights; by default that of `train`, or what the network
            says of itself, as timm's do. Where it names a mean and deviation, as they do, the
            network is put behind a `Normalize`, unless it holds one.
        layers: The layers that the detector reads; None for those that it reads by default.
        head: Path of the last linear map; None finds it.
        device: Where to compute; None leaves the network where it is.
        batch_size: Images per pass.

    Raises:
        ValueError: For images that serve both as `train` and `held_out`, for labels that are not
            the network's, and for names that are not as many.

    Example:
        >>> import openset
        >>> data = openset.data.load("digits", known_classes=range(6))
        >>> network = openset.networks.cnn(classes=6, channels=1)
        >>> objective = openset.objectives.CrossEntropy(network)
        >>> network = openset.train(objective, data.train, epochs=4, batch_size=64)
        >>> model = openset.wrap(network, data.train, data.valid, "energy", classes=data.classes)
        >>> model.threshold.accept
        0.95
    """
    if held_out is train:
        raise ValueError(
            "train and held_out are the same images; hold some out that the network was not "
            "trained on, or no threshold guarantees anything"
        )
    chosen = _with_layers(build(detector) if isinstance(detector, str) else detector, layers)
    names = classes if classes is not None else getattr(train, "classes", None)
    device = device_of(network) if device is None else device
    image, label = next(iter(batches(train)))
    prepared, adapter = as_it_wants(network, adapter, train, image)
    network = prepared.to(device)
    check_outputs(network, image, label, names)
    found = {chosen.name: chosen}
    how: dict[str, Any] = {"per_class": per_class, "batch_size": batch_size, "head": head}
    model = fit(network, found, train, held_out, accept=accept, **how)[chosen.name]
    model.classes = None if names is None else [str(name) for name in names]
    model.adapter = adapter
    model.name = detector if isinstance(detector, str) else chosen.name
    return model


def _with_layers(detector: Detector, layers: Sequence[str] | None) -> Detector:
    """The detector, it and those it is made of reading other layers, but the logits' readers."""
    parts = [part for part in detector.modules() if isinstance(part, Detector)]
    readers = [part for part in parts if part.layers is None or len(part.layers)]
    if layers is not None:
        if not readers:
            raise ValueError(f"{detector.name} reads the logits alone; leave layers out")
        for part in readers:
            part.layers = as_names(layers)
    return detector


def as_it_wants(
    network: nn.Module, adapter: Any, train: Any, image: Tensor
) -> tuple[nn.Module, Adapter | None]:
    """The network, behind the mean and deviation that it wants, and the adapter of its images.

    Args:
        network: It may say of itself how its images are prepared.
        adapter: As for `wrap`; it has the last word.
        train: Images that may have an adapter.
        image: Some of them `[N, C, H, W]`.
    """
    told: dict[str, Any] = {}
    if adapter is None:
        told = told_by(bare(network))
        adapter = getattr(train, "adapter", None)
        own = Adapter(**told) if "size" in told else None
        if adapter is None and own is not None and own.shape == image.shape[1:]:
            adapter = own
    elif not isinstance(adapter, Adapter):
        adapter = Adapter.of(adapter)
    given = adapter if adapter is not None and adapter.mean is not None else None
    mean, std = (given.mean, given.std) if given else (told.get("mean"), told.get("std"))
    if mean is None or normalises(network):
        return network, adapter
    return normalised(network, mean, std or [1.0] * len(mean)), adapter


def check_outputs(
    network: nn.Module, image: Tensor, label: Tensor, names: Sequence[str] | None
) -> None:
    """Raises for labels or names that the network has no output for; warns where none is right.

    Judged by the first batch; a network in whose order the classes are not is right by chance.
    """
    with torch.no_grad(), evaluating(network):
        logits = logits_of(network(image.to(device_of(network)))).cpu()
    count = logits.shape[1]
    if names is not None and len(names) != count:
        raise ValueError(f"{len(names)} class names for a network of {count} outputs; name each")
    known = label[label >= 0]
    if not len(known) or int(known.max()) >= count:
        what = f"up to {int(known.max())}" if len(known) else f"all {UNKNOWN}, unknown"
        raise ValueError(f"the labels are {what}, and the network has the classes 0…{count - 1}")
    right = _share_right(logits, label)
    if right <= 1 / count:
        warnings.warn(
            f"the network is right for {right:.1%} of the first {len(label)} images: its outputs "
            "are not the labels' classes in this order, or it wants its images otherwise",
            stacklevel=3,
        )


def _share_right(logits: Tensor, label: Tensor) -> float:
    if logits.shape[2:] != label.shape[1:]:
        return 1.0  # Of logits on a coarser grid than the labels nothing is known.
    return float((logits.argmax(1) == label)[label >= 0].float().mean())
