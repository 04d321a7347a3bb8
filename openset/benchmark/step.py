"""A trial with its data: where its network lies, and which evaluations are missing."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from openset.benchmark.keys import evaluation_key, file_digest, key_of, plain, slug
from openset.benchmark.trial import Trial
from openset.data import Data, ImageSet
from openset.files import read_json
from openset.objectives import Objective
from openset.runs.run import Run, build_detector


def training_key(
    description: dict[str, Any],
    data: dict[str, str],
    weights: str | None = None,
    companions: Mapping[str, Step] | None = None,
) -> str:
    """The key of a trained network: all that decides its weights.

    Args:
        description: As `Trial.describe` gives it.
        data: Fingerprints of the known data.
        weights: A file of weights that the training starts from, or the name of a companion.
        companions: The companions, by name.
    """
    if weights and companions and weights in companions:
        return key_of(description, data, companions[weights].key)
    return key_of(description, data, file_digest(Path(weights)) if weights else None)


@dataclass
class Step:
    """A trial with its data: where its network lies, and what is there already.

    Args:
        trial: What is to be trained and evaluated.
        data: Its known data.
        sets: Its unknown sets by name.
        objective: The training method around a new network.
        prints: Fingerprints of the unknown sets.
        key: The network's key.
        work: The work folder.
        tuning: By detector, the unknown sets that it is tuned on.
        tuning_prints: Their fingerprints.
    """

    trial: Trial
    data: Data
    sets: dict[str, ImageSet]
    objective: Objective
    prints: dict[str, str]
    key: str
    work: Path
    tuning: dict[str, dict[str, ImageSet]] = field(default_factory=dict)
    tuning_prints: dict[str, dict[str, str]] = field(default_factory=dict)
    companions: dict[str, Step] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.work / "runs" / self.trial.folder_name(self.key)

    @property
    def trained(self) -> bool:
        """Whether the network is there."""
        return (self.folder / "run.json").exists()

    @property
    def weights(self) -> Path | None:
        """The file of weights that the training starts from, which may be a companion's."""
        name = self.trial.method.weights
        if name and name in self.companions:
            return self.companions[name].folder / "network.safetensors"
        return Path(name) if name else None

    def networks(self) -> dict[str, nn.Module]:
        """The companions' networks by name, untrained."""
        return {name: step.objective.network for name, step in self.companions.items()}

    @property
    def epochs_done(self) -> int:
        """How many epochs of an unfinished training are behind us."""
        log = self.folder.with_name(f".{self.folder.name}.unfinished") / "log.jsonl"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def units(self) -> dict[str, Path]:
        """The folder of each detector's evaluation, there or not; the network must be there."""
        weights = file_digest(self.folder / "network.safetensors")
        protocol = self.trial.protocol
        settings = {"case": asdict(self.trial.case), "accept": protocol.accept}
        settings["metrics"] = list(protocol.measured)
        network, beside = self.objective.network, self.networks()
        keys = {
            name: evaluation_key(
                self.key,
                weights,
                self.prints,
                name,
                network,
                settings | self._read(name),
                self.tuning_prints.get(name),
                beside,
            )
            for name in self.trial.method.detectors
        }
        home = self.work / "evaluations" / self.folder.name
        return {name: home / f"{slug(name)}-{key}" for name, key in keys.items()}

    def _read(self, detector: str) -> dict[str, str]:
        """The keys of the companions that a detector takes, by name."""
        taken = build_detector(detector, **self.networks()).settings()
        return {name: step.key for name, step in self.companions.items() if name in taken}

    def missing(self) -> list[str]:
        """The detectors without an evaluation."""
        if not self.trained:
            return list(self.trial.method.detectors)
        return [name for name, unit in self.units().items() if not unit.exists()]


def check_run(run: Run, description: dict[str, Any], data: Data) -> None:
    """Refuses a folder under a trial's key that holds a run of another description.

    Raises:
        ValueError: If `run.json` or the training images differ from what the trial asks for.
    """
    have = plain(vars(run))
    wrong = [key for key, value in description.items() if have[key] != value]
    record = run.folder / "training.json"
    if record.exists() and not data.train.dense:
        seen = read_json(record)["data"]
        labels = zlib.crc32(data.train.labels.numpy().tobytes())
        if (seen["images"], seen["labels"]) != (len(data.train), labels):
            wrong.append("training images")
    if wrong:
        raise ValueError(
            f"{run.folder} holds a run of another {', '.join(wrong)} than the protocol asks for; "
            "remove that folder"
        )
