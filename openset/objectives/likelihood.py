"""Trains a flow by likelihood alone, so that it can draw outliers from the first epoch on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openset import networks
from openset.files import read_json
from openset.networks.real_nvp import RealNVP
from openset.objectives.base import Objective
from openset.objectives.codes import Codes
from openset.objectives.patches import SIDES, Patches


class Likelihood(Objective):
    """Trains a flow to make the training images probable: the start of `flow-outliers:flow=RUN`.

    The loss is −log₂ p(x) per dimension, in bits. Where pixels are labelled, x is a part of each
    image, as `FlowOutliers` replaces it. Other labels are not used. The log has the bits of two
    plain codes beside those of the flow: of each pixel's histogram, and of the differences to the
    left neighbour.

    Paper: Dinh et al., "Density estimation using Real NVP", 2017, https://arxiv.org/abs/1605.08803

    Args:
        network: The flow.
        lr: Its learning rate, by Adam and constant whatever the run's schedule.
        sides: Smallest and largest side of a part, as shares of the image's shorter side.

    Example:
        >>> from openset.networks import real_nvp
        >>> objective = Likelihood(real_nvp(channels=1, blocks=1, width=4))
        >>> [name for name, loss in objective.step(torch.rand(2, 1, 8, 8), torch.zeros(2))]
        ['network']
    """

    classifies = False
    network: RealNVP  # pyright: ignore[reportIncompatibleVariableOverride]
    sums: Tensor

    def __init__(self, network: nn.Module, lr: float = 1e-3, sides: Sequence[float] = SIDES):
        super().__init__(network)
        self.lr, self.sides = lr, sides
        self.codes = Codes()
        self.keep(sums=torch.zeros(2))

    def options(self) -> dict[str, dict[str, Any]]:
        return {"network": adam(self.lr)}

    def logits(self, image: Tensor) -> Tensor:
        """Bits per dimension of each image, `[N]`: a flow has no class scores."""
        return self.network.bits_per_dimension(image, noise=0.5)

    def start_epoch(self, epoch: int) -> None:
        self.sums.zero_()
        self.codes.clear()

    def figures(self) -> dict[str, float]:
        bits, steps = self.sums.tolist()
        return {"bits_per_dimension": bits / steps, **self.codes.bits()} if steps else {}

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        if "begun" not in self._buffers:
            self.network.centre(image)
            self.keep(begun=torch.tensor(True))
        place = None
        if label.dim() > 1:
            place = Patches.draw(image, self.network.stride, label, self.sides)
        bits = surprise(self.network, image, label, place, self.codes)
        self.sums += torch.stack([bits.detach(), torch.ones_like(bits)])
        yield "network", bits


def surprise(
    flow: RealNVP, image: Tensor, label: Tensor, place: Patches | None, codes: Codes
) -> Tensor:
    """Mean bits per dimension of images, or of their parts at a place that hold no void pixel.

    The plain codes count the same values.
    """
    if place is None:
        codes.count(image, each_pixel=True)
        return flow.bits_per_dimension(image).mean()
    parts, whole = place.cut(image), place.whole(label)
    codes.count(parts, whole)
    bits = flow.bits_per_dimension(parts)
    return (bits * whole).sum() / whole.sum().clamp(min=1)


def adam(lr: float) -> dict[str, Any]:
    """The settings of a flow's optimiser: Adam at a constant rate, as in the paper."""
    return {
        "optimizer": "adam",
        "lr": lr,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "clip_norm": None,
        "encoder_lr_factor": 1.0,
    }


def pretrained(run: str | os.PathLike[str]) -> RealNVP:
    """The flow of a run.

    Raises:
        ValueError: If the folder holds no run, or one of another network.
    """
    try:
        told = read_json(Path(run) / "run.json")
    except FileNotFoundError:
        told = {}
    name = (told.get("network") or {}).get("name", "nothing")
    if name != "real-nvp":
        raise ValueError(
            f"{run} holds {name} where a trained flow is needed; make one by openset train DATA "
            "--network real-nvp --objective likelihood"
        )
    flow = networks.restore(told["network"], Path(run) / "network.safetensors")
    assert isinstance(flow, RealNVP)
    return flow
