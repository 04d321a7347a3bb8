"""A trial with its data: where its network lies, and which evaluations are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from openset.benchmark.keys import evaluation_code, facts, file_digest, key_of, slug, training_code
from openset.benchmark.trial import Trial
from openset.data import Data, ImageSet
from openset.data.samples import summary
from openset.evaluation.stamp import versions
from openset.files import read_json
from openset.objectives import Objective
from openset.runs.recipe import Recipe
from openset.runs.run import Run, build_detector
from openset.runs.train import unfinished


@dataclass
class Step:
    """A trial with its data: where its network lies, and what is there already.

    Args:
        trial: The network to train and its detectors to evaluate.
        data: Its known data.
        work: The work folder.
        sets: Its unknown sets by name.
        tuning: By detector, the unknown sets that it is tuned on.
        companions: The steps of the networks that are trained beside it, by name.
    """

    trial: Trial
    data: Data
    work: Path
    sets: dict[str, ImageSet] = field(default_factory=dict)
    tuning: dict[str, dict[str, ImageSet]] = field(default_factory=dict)
    companions: dict[str, Step] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The recipe of its run, with the weights that a companion trains for it."""
        start = self.companions.get(self.trial.method.weights or "")
        recipe = self.trial.recipe
        return recipe if start is None else replace(recipe, weights=start.weights)

    @cached_property
    def objective(self) -> Objective:
        """The training method around a new network, whose weights mean nothing yet."""
        return self.trial.recipe.build_objective(self.data, ready=False, **self.networks())

    @cached_property
    def facts(self) -> dict[str, Any]:
        """All but the images and the code that decides the weights, as a run's `facts`."""
        spec = self.objective.spec()
        return facts(self.trial.recipe, self.data.classes, self.data.adapter, spec)

    @cached_property
    def key(self) -> str:
        """A fingerprint of all that decides the network's weights."""
        data = self.data
        images = fingerprints({"train": data.train, "valid": data.valid, "test": data.test})
        code = training_code(self.objective, self.trial.recipe)
        beside = {name: self.companions[name].key for name in self.beside}
        return key_of(self.facts, images, self._start(), code, *([beside] if beside else []))

    @property
    def beside(self) -> dict[str, Path]:
        """The folders of the companions that the training starts from, as a flow."""
        taken = self.objective.settings().keys() & self.companions.keys()
        return {name: self.companions[name].folder for name in sorted(taken)}

    def _start(self) -> str | None:
        """A fingerprint of the weights that the training starts from."""
        name = self.trial.method.weights
        if name in self.companions:
            return self.companions[name].key
        return file_digest(Path(name)) if name else None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.work / "runs" / self.trial.folder_name(self.key)

    @property
    def name(self) -> str:
        """The name of the step among those of all commands that share the work folder."""
        return f"{self.trial.protocol.name}-{key_of(self.folder.name, self.trial.method.detectors)}"

    @property
    def weights(self) -> Path:
        """The file of the trained network's weights."""
        return self.folder / "network.safetensors"

    @property
    def trained(self) -> bool:
        """Whether the network is there."""
        return (self.folder / "run.json").exists()

    def networks(self) -> dict[str, nn.Module]:
        """The companions' networks by name, untrained."""
        return {name: step.objective.network for name, step in self.companions.items()}

    @property
    def epochs_done(self) -> int:
        """The number of epochs that an unfinished training has behind it."""
        log = unfinished(self.folder) / "log.jsonl"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def units(self) -> dict[str, Path]:
        """The folder of each detector's evaluation, there or not; the network must be there."""
        weights = file_digest(self.weights)
        home = self.work / "evaluations" / self.folder.name
        return {
            name: home / f"{slug(name)}-{self._evaluation_key(name, weights)}"
            for name in self.trial.method.detectors
        }

    def _evaluation_key(self, name: str, weights: str) -> str:
        """A fingerprint of all that decides a detector's figures.

        Args:
            name: The detector with its settings.
            weights: The fingerprint of the trained network's weights.
        """
        protocol, tuning = self.trial.protocol, self.tuning.get(name)
        detector = build_detector(name, **self.networks())
        taken = detector.settings().keys() & self.companions.keys()
        return key_of(
            {
                "training": self.key,
                "weights": weights,
                "companions": {other: self.companions[other].key for other in taken},
                "detector": name,
                "unknown": fingerprints(self.sets),
                "tuned on": None if tuning is None else fingerprints(tuning),
                "case": asdict(self.trial.case),
                "accept": protocol.accept,
                "metrics": protocol.measured,
                "code": evaluation_code(detector, self.objective.network, tuning is not None),
                "versions": versions(),
            }
        )

    def missing(self) -> list[str]:
        """The detectors without an evaluation."""
        if not self.trained:
            return list(self.trial.method.detectors)
        return [name for name, unit in self.units().items() if not unit.exists()]

    def load_run(self) -> Run:
        """The trained run.

        Raises:
            ValueError: If the folder under the step's key holds a run of another description, or
                of other training images.
        """
        run = Run.load(self.folder)
        have = facts(run.recipe, run.classes, run.adapter, run.objective)
        wrong = [name for name, value in self.facts.items() if have[name] != value]
        record = run.folder / "training.json"
        if record.exists() and not self.data.train.dense:
            seen = read_json(record)["data"]
            if not summary(self.data.train.labels).items() <= seen.items():
                wrong.append("training images")
        if wrong:
            raise ValueError(
                f"{run.folder} holds a run of another {', '.join(wrong)} than the protocol asks "
                "for; remove that folder"
            )
        return run


def fingerprints(sets: Mapping[str, ImageSet]) -> dict[str, str]:
    """The fingerprint of each set, by name."""
    return {name: images.fingerprint for name, images in sets.items()}
