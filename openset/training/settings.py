"""The training settings that every objective shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

import torch
from torch import nn

from openset.errors import unknown_name
from openset.spec import Range, check_kinds

OF_STEPS = ("milestones", "step_every", "step_factor")
"""Settings that the step schedule alone reads."""


@dataclass(frozen=True)
class Settings:
    """Training settings: with the objective and the data, all that decides the weights."""

    epochs: Annotated[int, Range(least=0)] = 10
    """Passes over the training images."""
    batch_size: Annotated[int, Range(least=1)] = 128
    """Images per step."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """The update rule of every learner."""
    lr: Annotated[float, Range(least=0)] = 0.02
    """The learning rate at its highest; 0.02 suits SGD, 0.001 Adam."""
    encoder_lr_factor: Annotated[float, Range(least=0)] = 1.0
    """The factor of the rate for a ladder's encoder, whose weights may be pretrained."""
    momentum: Annotated[float, Range(least=0, below=1)] = 0.9
    """Momentum of SGD, and first decay rate of Adam."""
    nesterov: bool = False
    """Whether SGD takes Nesterov's momentum; the other optimisers ignore it."""
    weight_decay: Annotated[float, Range(least=0)] = 5e-4
    """The L2 penalty; decoupled with adamw."""
    schedule: Literal["constant", "cosine", "step", "one-cycle"] = "cosine"
    """The course of the rate: down to 0 by a cosine, down in steps, up and down, or constant."""
    milestones: tuple[int, ...] = ()
    """The epochs at which `step` lowers the rate."""
    step_every: Annotated[int, Range(least=1)] | None = None
    """Epochs after which `step` lowers the rate each time, instead of at milestones."""
    step_factor: Annotated[float, Range(least=0)] = 0.1
    """The factor by which `step` multiplies the rate."""
    warmup_epochs: Annotated[float, Range(least=0)] = 0.0
    """Number of epochs over which the rate first rises from 1 %."""
    clip_norm: Annotated[float, Range(above=0)] | None = None
    """The largest norm of a learner's gradient; None leaves gradients as they are."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Arithmetic of the forward pass; weights stay float32, and a CPU takes bf16 for fp16."""
    channels_last: bool = False
    """Whether images and weights lie channels-last, which convolutions prefer in bf16 and fp16."""
    augment: str | None = None
    """The name of a batch augmentation in `openset.data.augment`."""
    seed: Annotated[int, Range(least=0)] = 0
    """The seed of the order, the augmentation and all else that is random."""

    def __post_init__(self):
        check_kinds("the training", type(self), vars(self))
        object.__setattr__(self, "milestones", tuple(self.milestones))  # A list in JSON and TOML.
        if self.schedule == "step" and not self.milestones and not self.step_every:
            raise ValueError("the step schedule needs milestones, or step_every")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the weights, by name: those that the schedule reads, no others.

        Example:
            >>> Settings(schedule="cosine", step_every=9).decisive() == Settings().decisive()
            True
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.schedule != "step":
            values = {name: x for name, x in values.items() if name not in OF_STEPS}
        return values

    def changed(self, changes: dict[str, Any]) -> Settings:
        """These settings with some of them changed, by name."""
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise ValueError(unknown_name("training setting", name, known))
        return replace(self, **changes)

    def of(
        self, learner: str, options: Mapping[str, dict[str, Any]]
    ) -> tuple[Settings, dict[str, Settings]]:
        """The settings of a learner, and those of its parts that have others, by their paths.

        Args:
            learner: Its name.
            options: As `Objective.options` gives them.
        """
        own, before = self.changed(options.get(learner, {})), f"{learner}."
        inside = {key: changes for key, changes in options.items() if key.startswith(before)}
        return own, {key.removeprefix(before): own.changed(inside[key]) for key in inside}

    def build_optimizer(
        self, learner: nn.Module, parts: Mapping[str, Settings] | None = None
    ) -> torch.optim.Optimizer:
        """The optimiser for one learner.

        Args:
            learner: The module that learns.
            parts: The settings of some of its parts, by their paths; their `lr` and `weight_decay`
                count. Each is a parameter group, after that of all the rest.
        """
        named = {path: list(learner.get_submodule(path).parameters()) for path in parts or {}}
        taken = {id(p) for part in named.values() for p in part}
        groups = []
        for path, its in {"": self, **(parts or {})}.items():
            own = [{"params": named[path]}] if path else self._without(taken, learner)
            groups += [
                {**group, "part": path, "lr": its.lr, "weight_decay": its.weight_decay}
                for group in own
            ]
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov)
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, betas=(self.momentum, 0.999))

    def _without(self, taken: set[int], learner: nn.Module) -> list[dict[str, Any]]:
        """The weights that no part has: all, or the encoder with a `factor` of its own after it."""
        rest = {name: p for name, p in learner.named_parameters() if id(p) not in taken}
        if self.encoder_lr_factor == 1:
            return [{"params": list(rest.values())}]
        parts = ("stem", "transitions", *getattr(learner, "stages", ()))
        encoder = {name for name in rest if name.partition(".")[0] in parts}
        if not encoder:
            raise ValueError(
                f"encoder_lr_factor is {self.encoder_lr_factor:g}, but {type(learner).__name__} "
                "names no stages, so it has no encoder to slow down; leave it at 1"
            )
        slow = [rest[name] for name in rest if name in encoder]
        others = [rest[name] for name in rest if name not in encoder]
        return [{"params": others}, {"params": slow, "factor": self.encoder_lr_factor}]

    def lr_at(self, epoch: float) -> float:
        """The learning rate at a moment, counted in epochs; 2.5 is the middle of the third."""
        if epoch < self.warmup_epochs:
            return self.lr * (0.01 + 0.99 * epoch / self.warmup_epochs)
        share = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        if self.schedule == "cosine":
            return _cosine(self.lr, 0, share)
        if self.schedule == "one-cycle":  # The shares of torch's OneCycleLR.
            if share < 0.3:
                return _cosine(self.lr / 25, self.lr, share / 0.3)
            return _cosine(self.lr, self.lr / 250_000, (share - 0.3) / 0.7)
        if self.schedule == "step":
            passed = sum(epoch >= milestone for milestone in self.milestones)
            if self.step_every:
                passed += int(epoch // self.step_every)
            return self.lr * self.step_factor**passed
        return self.lr


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1))) / 2
