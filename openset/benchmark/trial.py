"""One network of a benchmark: its recipe, and its names in results and in folders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from openset.benchmark.keys import slug
from openset.benchmark.protocol import Method, Protocol
from openset.benchmark.protocol_file import LEFT_OUT
from openset.data import Data
from openset.evaluation.rows import Case
from openset.runs.recipe import Recipe


@dataclass(frozen=True)
class Trial:
    """A network to train and its detectors to evaluate: one method, split and seed.

    Args:
        protocol: The protocol that it is part of.
        method: The network, its training and its detectors.
        split: Position among the protocol's splits, from 0.
        seed: Seed of the training and of the held-out images.
    """

    protocol: Protocol
    method: Method
    split: int
    seed: int

    @property
    def recipe(self) -> Recipe:
        """The recipe of its run; weights that are a companion's are not known yet."""
        protocol, method = self.protocol, self.method
        weights = None if method.weights in method.companions else method.weights
        return Recipe(
            data=protocol.data,
            known_classes=protocol.splits[self.split],
            size=protocol.size,
            channels=protocol.channels,
            valid=protocol.valid,
            network=method.network,
            objective=method.objective,
            weights=Path(weights) if weights else None,
            settings=method.training.changed({"seed": self.seed}),
        )

    @property
    def known(self) -> str:
        """The known data, as the results name it."""
        several = len(self.protocol.splits) > 1
        return f"{self.protocol.data} split {self.split + 1}" if several else self.protocol.data

    @property
    def case(self) -> Case:
        """The trial as the rows of the results name it."""
        return Case(
            protocol=self.protocol.name,
            seed=self.seed,
            network=self.method.network,
            objective=self.method.objective,
            known=self.known,
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
        loaded = self.recipe.load_data()
        loaded.test.name, loaded.unknown.name = self.known, LEFT_OUT
        return loaded

    def folder_name(self, key: str) -> str:
        """The run's folder: readable, and unique by its key."""
        split = f"-split{self.split + 1}" if len(self.protocol.splits) > 1 else ""
        name = f"{self.protocol.data}-{self.method.network}-{self.method.objective}"
        return f"{slug(name)}{split}-seed{self.seed}-{key}"
