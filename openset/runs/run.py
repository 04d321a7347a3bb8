"""A training run on disk: the network, what it was trained on, and the models fitted to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from openset import networks
from openset.data import Adapter, Data, ImageSet, load_known
from openset.data.source import SPLITS
from openset.data.sources import DataName, other_part, same_images
from openset.detectors import Detector, build
from openset.evaluation.rows import Case
from openset.files import complete_file, read_json, recovered_folders, sealed_json
from openset.model.fit import fit
from openset.model.open_set import OpenSet
from openset.model.saved import DESCRIPTION, read, saved_name
from openset.processes import here
from openset.runs.names import named_network, network_name, plain_name
from openset.runs.recipe import Recipe
from openset.scoring.threshold import SEEN
from openset.scoring.views import tap_for
from openset.spec import call

OWN = "valid"
"""Stands for the images that a run held out, in place of a data string."""

IMPORTED = "imported"
"""Stands for the objective of a network that was trained elsewhere."""


@dataclass
class Run:
    """A folder that `openset train` or `openset import` wrote, read back.

    Args:
        folder: Where it is.
        recipe: The recipe of the run.
        classes: Names of the known classes.
        adapter: Turns an image into the network's input.
        network: The network's spec.
        objective: The objective's spec; None if the network was trained elsewhere.
        accuracy: Share of known images classified correctly, by split.
        warning: Why the network is of little use, in a sentence; None if it seems to have learned.
        held_out: Known images that no training has seen, as `load_held_out` takes them, in place of
            those that the run held out; None if nobody vouches for any.
    """

    folder: Path
    recipe: Recipe
    classes: list[str]
    adapter: Adapter
    network: dict[str, Any]
    objective: dict[str, Any] | None = None
    accuracy: dict[str, float] = field(default_factory=dict)
    warning: str | None = None
    held_out: str | None = None

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Reads a run's description.

        Raises:
            ValueError: If the folder holds no complete run.
        """
        folder = Path(folder)
        file = folder / "run.json"
        try:
            told = read_json(file)
            told = told if "recipe" in told else _with_recipe(told)
            recipe = Recipe.from_plain(told["recipe"])
            adapter = Adapter.from_settings(told["adapter"])
            return call("run", cls, {**told, "recipe": recipe, "adapter": adapter}, [folder])
        except FileNotFoundError as error:
            raise ValueError(
                f"{folder} holds no run (no run.json); give a folder that `openset train` or "
                "`openset import` wrote"
            ) from error
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{file} is damaged ({error}); make the run again") from error

    def save(self) -> None:
        """Writes the description into the folder."""
        told = {one.name: getattr(self, one.name) for one in fields(self)[1:]}
        told |= {"recipe": self.recipe.to_plain(), "adapter": self.adapter.settings()}
        with complete_file(self.folder / "run.json") as partial:
            partial.write_text(sealed_json(told), encoding="utf-8")

    def load_data(self) -> Data:
        """The data of the run, split and adapted as they were.

        Raises:
            ValueError: If their classes are no longer those that the run was trained on, and for a
                network that was imported without data.
        """
        if self.recipe.data is None:
            raise ValueError(
                f"{self.folder} was imported without data, which this needs: import it again with "
                "--data, the images that the network was trained on"
            )
        found = self.recipe.load_data(self.adapter)
        if found.classes != self.classes:
            raise ValueError(
                f"{self.recipe.data} has the classes {', '.join(found.classes[:5])}… in this "
                f"order, but {self.folder} was trained on {', '.join(self.classes[:5])}…; train "
                "again, or give the data as they were"
            )
        return self.with_held_out(found)

    def with_held_out(self, found: Data) -> Data:
        """The run's data with the images that `held_out` names in place of those held out.

        Where these are a part of the test images, such as `imagenette:test[:50%]`, the others are
        left to test on.
        """
        name = self.held_out or OWN
        if name == OWN or not self._test_part(name):
            return replace(found, valid=self.load_held_out(name, found))
        rest = other_part(name)
        held, test = (load_known(each, self.classes, self.adapter) for each in (name, rest))
        if self.recipe.skip_bad:
            held, test = held.without_bad(), test.without_bad()
        notes = [*found.notes, f"The threshold rests on {name}, and the test on {rest}."]
        return replace(found, valid=held, test=test, notes=notes)

    def _test_part(self, name: str) -> bool:
        """Whether a data string names a part of the run's own test images."""
        part = DataName.parse(name)
        own = part.percent is not None and part.split in SPLITS["test"]
        return own and same_images(name, self.recipe.data or "")

    def load_network(self, trust: Sequence[str] = (), named: str | None = None) -> nn.Module:
        """The trained network.

        Args:
            trust: Packages that may be imported to build it.
            named: The network as the user names it, as `load_model` takes it.
        """
        weights = self.folder / "network.safetensors"
        network, trust = named_network(named, self.network, (self.classes, self.adapter), trust)
        if network is None:
            network = networks.restore(self.network, weights, trust)
        else:
            networks.load_weights(network, weights)
        # On a CPU, convolutions are more than twice as fast this way, even in float32.
        return network.eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def origin(self) -> str:
        """The origin of the weights, in words."""
        if self.objective is None:
            return IMPORTED + (f" from {self.recipe.weights.name}" if self.recipe.weights else "")
        return f"trained with {self.objective['name']}, seed {self.recipe.seed}"

    @property
    def doubt(self) -> str | None:
        """Why the images that the run held out guarantee nothing; None if it has seen none."""
        if self.held_out is not None:
            return None
        foreign = self.objective is None or self.recipe.weights or not self.recipe.settings.epochs
        return SEEN if foreign else None

    @property
    def case(self) -> Case:
        """The run as the rows of the results name it."""
        return Case(
            seed=self.recipe.seed,
            network=network_name(self.network),
            objective=self.objective["name"] if self.objective else IMPORTED,
            known=self.recipe.data or "",
        )

    def facts(self, known: Data | None) -> dict[str, str]:
        """What the card of a model says of the run."""
        counts = f"{len(known.train):,} to train, {len(known.valid):,} held out" if known else ""
        shares = ", ".join(f"{share:.2%} on {split}" for split, share in self.accuracy.items())
        found = {
            "Data": self.recipe.data or "",
            "Images": counts,
            "Network": f"{self.case.network}, {self.origin}",
            "Accuracy": shares,
            "Warning": self.warning or "",
        }
        return {name: text for name, text in found.items() if text}

    @property
    def models(self) -> list[str]:
        """The detectors fitted so far, as they were named."""
        return sorted(self._named_folders())

    def model_folder(self, detector: str) -> Path:
        """The folder, there or not, of a detector's model, under a name that Windows takes too.

        Each model says inside as which detector it was fitted. Earlier ones do not: they lie under
        the detector's name itself.
        """
        found = self._named_folders()
        earlier = re.sub(r"[^\w.=+,:-]", "_", detector)
        return (
            found.get(detector)
            or found.get(earlier)
            or self.folder / "models" / plain_name(detector)
        )

    def _named_folders(self) -> dict[str, Path]:
        """The folders of the models, by the names of their detectors."""
        folders = recovered_folders(self.folder / "models")
        return {saved_name(f) or f.name: f for f in folders if (f / DESCRIPTION).exists()}

    def load_model(
        self, detector: str, trust: Sequence[str] = (), network: nn.Module | None = None
    ) -> OpenSet:
        """Loads a model by the name it was fitted under, around the run's network if given."""
        return OpenSet.load(self.found_model(detector), network, trust)

    def found_model(self, detector: str) -> Path:
        """The folder of a detector's model; raises a ValueError if there is none."""
        folder = self.model_folder(detector)
        if not folder.exists():
            have = ", ".join(self.models) or "none yet"
            raise ValueError(
                f"no model {detector!r} in {self.folder} (there are: {have}); "
                f"run: openset fit {self.folder} --detector {detector}"
            )
        return folder

    def build_detector(self, name: str, **given: nn.Module) -> Detector:
        """A detector as `build_detector` makes it, which names the unknown data of the training."""
        detector = build_detector(name, **given)
        detector.tuned_on = self.recipe.exposed_to
        return detector

    def fit(
        self,
        detectors: Iterable[str],
        known: Data | None,
        network: nn.Module,
        *,
        accept: float = 0.95,
        per_class: bool = False,
        held_out: str | None = None,
    ) -> Mapping[str, OpenSet]:
        """Fits detectors by their names on the run's training images and saves each model.

        Of a run without data, those that learn nothing are saved; without `held_out` they have no
        threshold.

        Args:
            detectors: Names with settings.
            known: The run's data; None loads them, if it has any.
            network: The run's network.
            accept: The share of known images to accept.
            per_class: One threshold for each predicted class.
            held_out: Known images that the network has not seen, as `load_held_out` takes them;
                None takes those that the run held out, of which it may have seen some before.
        """
        named: dict[str, Detector] = {name: self.build_detector(name) for name in detectors}
        for name, detector in named.items():
            self._check_objective(name, detector.objectives)
        if self.recipe.data is None:
            models = self._unfitted(named, network, held_out, accept, per_class)
        else:
            known = known or self.load_data()
            unseen = self.load_held_out(held_out or OWN, known)
            models = fit(network, named, known.train, unseen, accept=accept, per_class=per_class)
        for name, model in models.items():
            if model.threshold is not None:
                model.doubt(None if held_out else self.doubt)
            model.classes, model.adapter = self.classes, self.adapter
            model.name, model.about = name, self.facts(known)
            here().once(partial(model.save, self.model_folder(name)))
        return models

    def _unfitted(
        self,
        detectors: Mapping[str, Detector],
        network: nn.Module,
        held_out: str | None,
        accept: float,
        per_class: bool,
    ) -> dict[str, OpenSet]:
        """Models of detectors that learn nothing, with thresholds if known images are held out."""
        learning = [name for name, detector in detectors.items() if detector.learns]
        if learning:
            raise ValueError(
                f"{', '.join(learning)} must be fitted to training images, and {self.folder} was "
                "imported without data; import it again with --data, or take a detector that "
                "learns nothing, such as msp, energy or gen"
            )
        models = {n: OpenSet(tap_for(network, [d]), d) for n, d in detectors.items()}
        place = held_out or self.held_out
        if place is not None:
            images = load_known(place, self.classes, self.adapter)
            for model in models.values():
                model.calibrate(images, accept, per_class=per_class)
        return models

    def load_held_out(self, name: str, known: Data) -> ImageSet:
        """Known images to set thresholds from.

        Args:
            name: `OWN` for those that the run held out, or a data string.
            known: The run's data.
        """
        if name == OWN or (name == self.held_out and self._test_part(name)):
            return known.valid
        if same_images(name, self.recipe.data or ""):
            raise ValueError(
                f"{name} is what this run was trained and is tested on; name other images, or "
                f"{OWN} for those that it held out, if no training has seen them; "
                "`openset import` takes a part of the test images too: --held-out DATA:test[:50%]"
            )
        return load_known(name, self.classes, self.adapter)

    def _check_objective(self, detector: str, objectives: Sequence[str]) -> None:
        """Raises for a detector that reads what only other objectives teach a network."""
        trained = self.case.objective
        if objectives and trained not in (*objectives, IMPORTED):
            raise ValueError(
                f"{detector} is for a network trained with --objective {' or '.join(objectives)}; "
                f"{self.folder} was trained with {trained}"
            )


def _with_recipe(told: dict[str, Any]) -> dict[str, Any]:
    """The description of a run that was saved when its facts had no recipe around them."""
    adapter, network, objective = told["adapter"], told["network"], told["objective"]
    recipe = {
        "data": told["data"],
        "known_classes": told["known_classes"],
        "size": adapter["size"],
        "channels": adapter["channels"],
        "valid": told["valid"],
        "network": network["name"],
        "objective": objective["name"],
        "weights": None,
        "settings": told["training"],
    }
    kept = ("classes", "adapter", "network", "objective", "accuracy")
    return {"recipe": recipe, **{key: told[key] for key in kept}}


def build_detector(spec: str, **given: Any) -> Detector:
    """Builds as `openset.detectors.build`, with networks named by run: `vmdls:autoencoder=RUN`.

    Args:
        spec: The detector's name with its settings.
        given: Arguments of the caller, as for `build`.
    """
    return build(spec, load=lambda folder: Run.load(folder).load_network(), **given)


def load_model(
    place: str | os.PathLike[str],
    detector: str | None = None,
    trust: Sequence[str] = (),
    network: str | None = None,
) -> OpenSet:
    """A fitted model from its own folder or file, or from a run by its detector's name.

    Args:
        place: Folder or file that `OpenSet.save` or `openset train` wrote.
        detector: The detector of a run's model; not needed if there is only one.
        trust: Packages that may be imported to build the network.
        network: The network's function or class as the user names it, such as `eff:make`, which
            is trusted thereby; of a network that openset did not build, the weights are loaded
            into it.

    Raises:
        ValueError: If a run holds no such model, or several and none was named.
    """
    if (Path(place) / "run.json").exists():
        run = Run.load(place)
        names = [detector] if detector else run.models
        if len(names) != 1:
            have = ", ".join(names) or "none: run openset fit first"
            raise ValueError(f"{place} is a run; say which of its models: --detector ({have})")
        place = run.found_model(names[0])
    if network is None:
        return OpenSet.load(place, trust=trust)
    _, told = read(Path(place))
    adapter = None if told.adapter is None else Adapter.from_settings(told.adapter)
    return OpenSet.load(
        place, *named_network(network, told.network, (told.classes, adapter), trust)
    )
