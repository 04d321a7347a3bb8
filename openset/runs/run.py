"""A training run on disk: the network, what it was trained on, and the models fitted to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from openset import data, networks
from openset.data import Adapter, Data
from openset.detectors import Detector, build
from openset.evaluation.rows import Case
from openset.files import read_json, sealed_json
from openset.model.fit import fit
from openset.model.open_set import OpenSet
from openset.spec import call


@dataclass
class Run:
    """What `openset train` leaves behind, read back.

    Args:
        folder: Where it is.
        data: The data string it was trained on.
        known_classes: As `data.load` takes them.
        classes: Names of the known classes.
        adapter: How an image becomes the network's input, as `Adapter.settings` gives it.
        network: The network's spec.
        objective: The objective's spec.
        training: The training settings.
        seed: Of the split and the training.
        valid: The share of the training images that was held out.
        accuracy: Share of known images classified correctly, by split.
    """

    folder: Path
    data: str
    known_classes: str | None
    classes: list[str]
    adapter: dict[str, Any]
    network: dict[str, Any]
    objective: dict[str, Any]
    training: dict[str, Any]
    seed: int
    valid: float
    accuracy: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Reads a run's description.

        Raises:
            ValueError: If the folder holds no complete run.
        """
        folder = Path(folder)
        try:
            description = read_json(folder / "run.json")
        except FileNotFoundError as error:
            raise ValueError(
                f"{folder} holds no run (no run.json); give a folder that `openset train` wrote"
            ) from error
        return call(f"the run {folder}", cls, description, [folder])

    def save(self) -> None:
        """Writes the description into the folder."""
        description = {key: value for key, value in asdict(self).items() if key != "folder"}
        (self.folder / "run.json").write_text(sealed_json(description), encoding="utf-8")

    def load_data(self) -> Data:
        """The data of the run, split as it was."""
        adapter = Adapter.from_settings(self.adapter)
        return data.load(
            self.data,
            self.known_classes,
            size=adapter.size,
            channels=adapter.channels,
            valid=self.valid,
            seed=self.seed,
        )

    def load_network(self, trust: Sequence[str] = ()) -> nn.Module:
        """The trained network."""
        weights = self.folder / "network.safetensors"
        network = networks.restore(self.network, weights, trust).eval()
        # On a CPU, convolutions are more than twice as fast this way, even in float32.
        return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def case(self) -> Case:
        """What the results say of the run."""
        return Case(
            seed=self.seed,
            network=str(self.network["name"]),
            objective=self.objective["name"],
            known=self.data,
        )

    @property
    def models(self) -> list[str]:
        """The detectors fitted so far, as they were named."""
        found = sorted((self.folder / "models").glob("*/model.json"))
        return [file.parent.name for file in found]

    def model_folder(self, detector: str) -> Path:
        """Where the model of a detector is kept."""
        return self.folder / "models" / re.sub(r"[^\w.=+,:-]", "_", detector)

    def load_model(self, detector: str, trust: Sequence[str] = ()) -> OpenSet:
        """A fitted model, by the name it was fitted under."""
        folder = self.model_folder(detector)
        if not folder.exists():
            have = ", ".join(self.models) or "none yet"
            raise ValueError(
                f"no model {detector!r} in {self.folder} (there are: {have}); "
                f"run: openset fit {self.folder} --detector {detector}"
            )
        return OpenSet.load(folder, trust=trust)

    def fit(
        self,
        detectors: Iterable[str],
        known: Data,
        network: nn.Module,
        *,
        accept: float = 0.95,
        per_class: bool = False,
    ) -> Mapping[str, OpenSet]:
        """Fits detectors by their names on the run's training images and saves each model."""
        named: dict[str, Detector] = {name: build_detector(name) for name in detectors}
        for name, detector in named.items():
            self._refuse_stranger(name, detector.objectives)
        models = fit(network, named, known.train, known.valid, accept=accept, per_class=per_class)
        for name, model in models.items():
            model.classes, model.adapter = self.classes, Adapter.from_settings(self.adapter)
            model.save(self.model_folder(name))
        return models

    def _refuse_stranger(self, detector: str, objectives: Sequence[str]) -> None:
        trained = self.objective["name"]
        if objectives and trained not in objectives:
            raise ValueError(
                f"{detector} is for a network trained with --objective {' or '.join(objectives)}; "
                f"{self.folder} was trained with {trained}"
            )


def build_detector(spec: str, **given: Any) -> Detector:
    """As `openset.detectors.build`; a network is named by its run: `vmdls:autoencoder=RUN`.

    Args:
        spec: The detector's name with its settings.
        given: What the caller has, as for `build`.
    """
    return build(spec, load=lambda folder: Run.load(folder).load_network(), **given)


def load_model(
    place: str | os.PathLike[str], detector: str | None = None, trust: Sequence[str] = ()
) -> OpenSet:
    """A fitted model from its own folder or file, or from a run by its detector's name.

    Args:
        place: What `OpenSet.save` or `openset train` wrote.
        detector: Which model of a run; not needed if there is only one.
        trust: Packages that may be imported to build the network.

    Raises:
        ValueError: If a run holds no such model, or several and none was named.
    """
    if not (Path(place) / "run.json").exists():
        return OpenSet.load(place, trust=trust)
    run = Run.load(place)
    names = [detector] if detector else run.models
    if len(names) != 1:
        have = ", ".join(names) or "none: run openset fit first"
        raise ValueError(f"{place} is a run; say which of its models: --detector ({have})")
    return run.load_model(names[0], trust)
