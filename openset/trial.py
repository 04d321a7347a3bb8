"""One network of a benchmark: what it is trained on, where it is kept, and under which key."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from openset import data as images
from openset import networks
from openset.data import Data, ImageSet
from openset.job import fitting
from openset.names import build
from openset.objectives import OBJECTIVES, Objective
from openset.protocol import Method, Protocol
from openset.protocol_file import LEFT_OUT
from openset.run import Run, build_detector
from openset.settings import Settings
from openset.stamp import versions
from openset.table import Case


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
            network = networks.build(self.method.network, **fitting(data))
            return build("objective", OBJECTIVES, self.method.objective, network=network)

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


class Fingerprints:
    """Short hashes of image sets; the pixels of each data string are read once."""

    def __init__(self):
        self.pixels: dict[tuple[str, str], str] = {}

    def of_data(self, data: Data, name: str) -> dict[str, str]:
        """Of each part of the known data."""
        parts = {"train": data.train, "valid": data.valid, "test": data.test}
        return {part: self.of(part_set, name, part) for part, part_set in parts.items()}

    def of(self, source: ImageSet, name: str, part: str = "") -> str:
        """Of one set: which images in which order, with which labels, adapted how."""
        if (name, part) not in self.pixels:
            masks = source.masks.fingerprint if source.masks is not None else ""
            self.pixels[name, part] = source.pixels.fingerprint + masks
        labels = source.values if source.dense else source.labels
        settings = source.adapter.settings()
        chosen = [x.contiguous().numpy().tobytes() for x in (source.indices, labels)]
        return key_of(self.pixels[name, part], settings, *(hashed(x) for x in chosen))


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


def evaluation_key(
    training: str,
    weights: str,
    unknown: dict[str, str],
    detector: str,
    network: nn.Module,
    settings: dict[str, Any],
    tuning: dict[str, str] | None = None,
    companions: Mapping[str, nn.Module] | None = None,
) -> str:
    """The key of one detector's evaluation: all that decides its figures.

    Args:
        training: The network's `training_key`, which covers the known data.
        weights: Digest of the trained weights' file.
        unknown: Fingerprints of the unknown sets by name.
        detector: The detector with its settings.
        network: The network, for the code it runs.
        settings: What else the figures depend on: metrics, accepted share, names.
        tuning: Fingerprints of the unknown sets that it is tuned on; None if it is not tuned.
        companions: Networks that the detector may take, for the code they run.
    """
    parts = [build_detector(detector, **(companions or {})), network]
    kinds = {type(module) for part in parts for module in part.modules()}
    code = code_digest(kinds)
    key = [training, weights, unknown, detector, settings, code, versions()]
    return key_of(*key) if tuning is None else key_of(*key, tuning, _code("openset.tune"))


def code_digest(kinds: Iterable[type]) -> str:
    """A hash of openset's own code that these classes use, directly or not."""
    found: set[str] = set()
    for module in ("openset.evaluate", "openset.fit"):
        _collect(module, found)
    for kind in kinds:
        for base in kind.__mro__:
            _collect(base.__module__, found)
    return key_of(*(_code(name) for name in sorted(found)))


def _collect(name: str, found: set[str]) -> None:
    """Adds a module of openset and those that its functions and classes come from."""
    if not name.startswith("openset.") or name in found:
        return
    found.add(name)
    for value in list(vars(sys.modules[name]).values()):
        if not isinstance(value, ModuleType):
            _collect(getattr(value, "__module__", None) or "", found)


def _code(name: str) -> str:
    return hashed(Path(_file(name)).read_bytes())


def _file(name: str) -> str:
    file = sys.modules[name].__file__
    assert file is not None
    return file


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
        seen = json.loads(record.read_text(encoding="utf-8"))["data"]
        labels = zlib.crc32(data.train.labels.numpy().tobytes())
        if (seen["images"], seen["labels"]) != (len(data.train), labels):
            wrong.append("training images")
    if wrong:
        raise ValueError(
            f"{run.folder} holds a run of another {', '.join(wrong)} than the protocol asks for; "
            "remove that folder"
        )


def key_of(*parts: Any) -> str:
    """A short hash of plain values."""
    return hashed(json.dumps(parts, sort_keys=True).encode())


def hashed(content: bytes) -> str:
    """A short hash of bytes."""
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def file_digest(path: Path) -> str:
    """A hash of a file's content."""
    if not path.is_file():
        raise ValueError(f"{path} is no file of weights; check the path")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """As JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value, default=str))


def slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w.=+,-]+", "-", text).strip("-")
