"""One network of a benchmark: what it is trained on, where it is kept, and under which key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from openset import data as images
from openset import networks
from openset.benchmark.keys import plain, slug
from openset.benchmark.protocol import Method, Protocol
from openset.benchmark.protocol_file import LEFT_OUT
from openset.data import Data
from openset.evaluation.rows import Case
from openset.objectives import OBJECTIVES, Objective
from openset.runs.train import fitting
from openset.spec import build
from openset.training.settings import Settings


@dataclass(frozen=True)
class Trial:
    """A network to train and its detectors to evaluate: one method, split and seed.

    Args:
        protocol: What it is part of.
        method: The network, its training and its detectors.
        split: Which of the protocol's splits, from 0.
        seed: Of the training and of what is held out.
    """

    protocol: Protocol
    method: Method
    split: int
    seed: int

    @property
    def known_classes(self) -> str | None:
        """As `data.load` takes them; None for all."""
        return self.protocol.splits[self.split]

    @property
    def known(self) -> str:
        """The known data, as the results name it."""
        several = len(self.protocol.splits) > 1
        return f"{self.protocol.data} split {self.split + 1}" if several else self.protocol.data

    @property
    def settings(self) -> Settings:
        """How to train, with the trial's seed."""
        return self.method.training.changed({"seed": self.seed})

    @property
    def case(self) -> Case:
        """What the results say of the trial."""
        return Case(
            self.protocol.name,
            self.seed,
            self.method.network,
            self.method.objective,
            "",
            self.known,
        )

    def __str__(self) -> str:
        split = f", split {self.split + 1}" if len(self.protocol.splits) > 1 else ""
        objective = "" if self.method.objective == "cross-entropy" else f", {self.method.objective}"
        return f"{self.method.network}{objective}{split}, seed {self.seed}"

    @property
    def companions(self) -> dict[str, Trial]:
        """The networks that are trained beside this one, by name."""
        return {
            name: replace(self, method=method) for name, method in self.method.companions.items()
        }

    def load_data(self) -> Data:
        """The data, under the names that the results use."""
        protocol = self.protocol
        loaded = images.load(
            protocol.data,
            self.known_classes,
            size=protocol.size,
            channels=protocol.channels,
            valid=protocol.valid,
            seed=self.seed,
        )
        loaded.test.name, loaded.unknown.name = self.known, LEFT_OUT
        return loaded

    def build_objective(self, data: Data) -> Objective:
        """The training method around a new network, whose weights mean nothing yet."""
        with torch.random.fork_rng(devices=[]):
            network = networks.build(self.method.network, trust=None, **fitting(data))
            return build(
                "objective", OBJECTIVES, self.method.objective, trust=None, network=network
            )

    def describe(self, data: Data, objective: Objective) -> dict[str, Any]:
        """What `run.json` says of a run that was trained as this trial asks."""
        return plain(
            {
                "data": self.protocol.data,
                "known_classes": self.known_classes,
                "classes": data.classes,
                "adapter": data.adapter.settings(),
                "objective": objective.spec(),
                "training": vars(self.settings),
                "seed": self.seed,
                "valid": self.protocol.valid,
            }
        )

    def folder_name(self, key: str) -> str:
        """The run's folder: readable, and unique by its key."""
        split = f"-split{self.split + 1}" if len(self.protocol.splits) > 1 else ""
        name = f"{self.protocol.data}-{self.method.network}-{self.method.objective}"
        return f"{slug(name)}{split}-seed{self.seed}-{key}"
