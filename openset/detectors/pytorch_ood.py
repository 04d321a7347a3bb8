"""The detectors of pytorch-ood as detectors here, for tables with both side by side."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.rows import Rows, known, peek
from openset.errors import unknown_name
from openset.networks.external import import_library

READS = ("logits", "features", "feature_maps")
"""Inputs that pytorch-ood's detectors read, as their methods name them: `fit_logits`, …"""


SUPPLIED = ("model", "encoder", "backbone", "head", "w", "b")
"""Arguments that come from the activations: none of the network, and the last linear layer."""


class PytorchOOD(Detector):
    """Scores an image by a detector of pytorch-ood, fed from the same activations as all others.

    Kirchheim et al., 2022, https://github.com/kkirchheim/pytorch-ood; needs the extra `peers`.
    Those that read logits or penultimate features are exact. Those that read feature maps (ReAct,
    ASH, …) get the pooled features as maps of one pixel. Those that need the network are refused.

    They work on the CPU, as some compute with NumPy. Their state lies in objects of their own, so
    what is kept, saved and loaded is what they were fitted on, all of it in memory; a loaded one is
    fitted again when it first scores.

    Args:
        detector: The class in `pytorch_ood.detector`, such as `KNN`.
        options: Its settings; those in a string go here: `pytorch-ood:KNN,k=50`.

    Example:
        >>> PytorchOOD("KNN", {"k": 50})  # doctest: +SKIP
        PytorchOOD(detector='KNN', options={'k': 50})
    """

    name = "pytorch-ood"
    inputs: Tensor
    labels: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, detector: str, options: Mapping[str, Any] | None = None):
        super().__init__()
        self.detector, self.options = detector, dict(options or {})
        self.peer_class = find(detector)
        self.reads = next((r for r in READS if hasattr(self.peer_class, f"predict_{r}")), "")
        check(self.peer_class, self.reads, self.options)
        self.layers = () if self.reads == "logits" else ("penultimate",)
        self.made: tuple[Tensor, Any] | None = None

    def fit(self, batches: Iterable[Activations]) -> Self:
        Rows(batches, ())  # Refuses what can be read only once.
        if self.peer_class.requires_fit:
            parts = [known(batch) for batch in batches]
        else:
            parts = [known(peek(batches))[:0]]
        nothing = (torch.zeros(0), torch.zeros(0))
        weight, bias = nothing if parts[0].head is None else parts[0].head
        labels = torch.cat([part.labels for part in parts if part.labels is not None])
        inputs = torch.cat([self._inputs(part) for part in parts])
        self.keep(inputs=inputs, labels=labels, weight=weight, bias=bias)
        return self

    def _inputs(self, rows: Activations) -> Tensor:
        if self.reads == "logits":
            return rows.logits
        x = rows.values("penultimate")
        return x[:, :, None, None] if self.reads == "feature_maps" else x

    def _fitted(self) -> Any:
        """The detector of pytorch-ood, made and fitted anew only where the inputs are others."""
        inputs = self.inputs
        if self.made is None or self.made[0] is not inputs:
            peer = self.peer_class(**self._arguments(), **self.options)
            if peer.requires_fit:
                getattr(peer, f"fit_{self.reads}")(inputs.cpu(), self.labels.cpu())
            self.made = inputs, peer
        return self.made[1]

    def _arguments(self) -> dict[str, Any]:
        wanted = [key for key in SUPPLIED if key in inspect.signature(self.peer_class).parameters]
        given: dict[str, Any] = dict.fromkeys(wanted)
        if {"head", "w"} & given.keys():
            if not len(self.weight):
                raise ValueError(
                    f"{self.detector} needs the network's last linear layer, and none was found "
                    "that gives the logits; name it: Tap(network, head=…)"
                )
            linear = {"head": self._head(), "w": self.weight.cpu(), "b": self.bias.cpu()}
            given |= {key: value for key, value in linear.items() if key in given}
        return given

    def _head(self) -> nn.Module:
        classes, features = self.weight.shape
        with torch.device("meta"):
            linear = nn.Linear(features, classes)
        linear.weight = nn.Parameter(self.weight.cpu(), requires_grad=False)
        linear.bias = nn.Parameter(self.bias.cpu(), requires_grad=False)
        return linear if self.reads == "features" else nn.Sequential(nn.Flatten(), linear)

    def score(self, rows: Activations) -> Tensor:
        peer = self._fitted()
        score = getattr(peer, f"predict_{self.reads}")(
            self._inputs(rows).to("cpu", self.inputs.dtype)
        )
        return score.to(rows.logits)


def find(name: str) -> Any:
    """The class of that name in pytorch-ood.

    Raises:
        ValueError: If there is none, or if pytorch-ood is not installed.
    """
    base = import_library("pytorch_ood").api.Detector
    library = import_library("pytorch_ood").detector
    table = {
        key: value
        for key, value in vars(library).items()
        if isinstance(value, type) and issubclass(value, base)
    }
    if name not in table:
        raise ValueError(unknown_name("detector of pytorch-ood", name, table))
    return table[name]


def check(peer: Any, reads: str, options: Mapping[str, Any]) -> None:
    """Refuses a detector that reads what is not here, and settings that it does not take.

    Raises:
        ValueError: Saying which.
    """
    if not reads:
        raise ValueError(
            f"pytorch-ood's {peer.__name__} reads the network itself; only those that read logits "
            "or features can share its activations"
        )
    own = inspect.signature(peer).parameters
    free = [key for key, p in own.items() if key not in SUPPLIED and p.kind != p.VAR_KEYWORD]
    for key in options:
        if key not in free:
            raise ValueError(unknown_name(f"setting of pytorch-ood's {peer.__name__}", key, free))
    for key in free:
        if own[key].default is inspect.Parameter.empty and key not in options:
            raise ValueError(f"pytorch-ood's {peer.__name__} needs the setting {key}")
