"""A saved model: safetensors and a readable description, no pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from openset import networks
from openset.data import Adapter
from openset.densities import DENSITIES
from openset.detectors import DETECTORS, Detector
from openset.extractors.tap import Tap
from openset.files import (
    complete_folder,
    digest_of,
    header,
    parse_json,
    read_json,
    read_tensors,
    recovered,
    save_tensors,
)
from openset.fitted import Fitted
from openset.model.card import CARD, card
from openset.networks.allowance import Allowance
from openset.networks.base import normalises
from openset.networks.device import device_of, dtype_of
from openset.scoring.threshold import Threshold
from openset.spec import Trust, call, hints_of, look_up

TENSORS, DESCRIPTION = "model.safetensors", "model.json"

TABLES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "detector": DETECTORS,
    "density": DENSITIES,
}
"""Tables in which the names in a saved model are looked up; nothing else is imported or opened."""

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Description:
    """All of a model but its tensors, as `model.json` and the tensors' own file hold it.

    Args:
        format: The version of this description.
        network: The network's spec; None for one that openset did not build.
        tap: The layers that are read, and the head.
        detector: The detector's spec.
        threshold: As `Threshold.settings` gives it.
        classes: Names of the known classes.
        adapter: As `Adapter.settings` gives it.
        tuned_on: The unknown sets that the detector was tuned on.
        state: Type and shape of each tensor that the detector learned.
        name: The name that the model was given.
        channels_last: Whether the network computes in that memory format, as when the threshold
            was set.
        about: Facts for the model's card, by name.
    """

    format: Literal[1]
    network: dict[str, Any] | None
    tap: dict[str, Any]
    detector: dict[str, Any]
    threshold: dict[str, Any] | None
    classes: list[str] | None
    adapter: dict[str, Any] | None
    tuned_on: list[str] = field(default_factory=list)
    state: dict[str, list[Any]] | None = None
    name: str | None = None
    channels_last: bool = False
    about: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """A detector or density as `Fitted.spec` describes it."""

    kind: Literal["detector", "density"]
    name: str
    settings: dict[str, Any]


def restore(spec: Any, trust: Trust = ()) -> Any:
    """Makes a detector, density or network from its spec; leaves other values as they are.

    The only way from a file to such an object: names are looked up in openset's own tables, and
    settings are values or objects, so that no constructor gets a string to build from.

    Raises:
        ValueError: For what is no such spec, and for code outside openset that is not trusted.
    """
    if isinstance(spec, list):
        return [restore(item, trust) for item in spec]
    if not isinstance(spec, dict) or "kind" not in spec:
        return spec
    if spec["kind"] == "network":
        if not isinstance(spec.get("spec"), dict):
            raise ValueError("a network in it was not built by openset, so it cannot be made again")
        return networks.from_spec(spec["spec"], trust)
    told = call("spec", Spec, spec)
    kind, name = told.kind, told.name
    factory = look_up(kind, TABLES[kind], name, trust)
    made = {key: restore(value, trust) for key, value in told.settings.items()}
    hints = hints_of(factory)
    for key, value in made.items():
        if isinstance(value, str) and _takes_module(hints.get(key)):
            raise ValueError(f"{key} of {kind} {name} is the text {value!r}; expected a spec")
    thing = call(f"{kind} {name}", factory, made)
    kept = thing.spec()["settings"] if isinstance(thing, Fitted) else {}
    for key, value in told.settings.items():
        if kept.get(key) != value:
            raise ValueError(f"{key} of {kind} {name} is {value!r:.200}, which it does not keep")
    return thing


def _takes_module(hint: Any) -> bool:
    kinds = (hint, *get_args(hint))
    return any(isinstance(one, type) and issubclass(one, nn.Module) for one in kinds)


def save(model: nn.Module, description: dict[str, Any], folder: str | os.PathLike[str]) -> None:
    """Writes the tensors, sealed and with the description in them, `model.json` and a card."""
    with complete_folder(folder, owns=(TENSORS, DESCRIPTION, CARD)) as partial:
        file = partial / TENSORS
        save_tensors(model.state_dict(), file, {"openset": json.dumps(description)})
        readable = {**description, "sha256": digest_of(file)}
        (partial / DESCRIPTION).write_text(json.dumps(readable, indent=2) + "\n")
        text = card(description, readable["sha256"])
        (partial / CARD).write_text(text, encoding="utf-8")


def load(
    kind: Callable[..., Model],
    path: str | os.PathLike[str],
    network: nn.Module | None = None,
    trust: Trust = (),
) -> Model:
    """A model as it was saved, in evaluation mode; see `OpenSet.load` for the arguments."""
    file, told = read(Path(path))
    own = network is None
    try:
        if network is None and told.network is None:
            raise ValueError(
                "it holds a network that openset did not build; "
                "pass the same module: OpenSet.load(path, network=…)"
            )
        tensors = read_tensors(file)
        check_state(told, tensors)
        with Allowance.of(file, "its description") as allowance:
            allowance.check_sizes(told.network or {})
            if network is None:
                network = networks.from_spec(told.network or {}, trust or ())
            network = _behind_normalize(network, tensors)
            detector = restore(told.detector, trust or ())
            if not isinstance(detector, Detector):
                raise ValueError(f"its detector is a {type(detector).__name__}")
            detector.tuned_on = tuple(told.tuned_on)
            model = kind(
                _tap(told.tap, network),
                detector,
                None if told.threshold is None else Threshold.from_settings(told.threshold),
                told.classes,
                None if told.adapter is None else Adapter.from_settings(told.adapter),
                told.name,
                told.about,
            )
            _fill(model, tensors, own)
        if told.channels_last:
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        model.eval()
        _try(model, told)
    except ValueError as error:
        raise ValueError(f"{file} cannot be loaded: {error}") from error
    return model


def _behind_normalize(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network as `wrap` had put it behind a `Normalize`, if the saved one lies behind it."""
    mean, std = (tensors.get(f"tap.network.normalize.{name}") for name in ("mean", "std"))
    if mean is None or std is None or normalises(network):
        return network
    return networks.normalised(network, mean.flatten().tolist(), std.flatten().tolist())


def _tap(told: dict[str, Any], network: nn.Module) -> Tap:
    """The tap that was saved; raises for settings that it does not keep as they stand."""
    tap = call("tap", Tap, told, [network])
    if tap.settings() != told:
        raise ValueError(f"its tap is {told!r:.200}; expected {tap.settings()!r:.200}")
    return tap


def check_state(told: Description, tensors: Mapping[str, Tensor]) -> None:
    """Raises unless the tensors that the detector learned are those that were saved."""
    have = described_state(tensors)
    saved = have if told.state is None else told.state
    for name in {**saved, **have}:
        if json.dumps(saved.get(name)) != json.dumps(have.get(name)):  # As 1 is true in Python.
            raise ValueError(f"{name} is {have.get(name)}, and was saved as {saved.get(name)}")


def described_state(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Type and shape of each tensor that was learned from activations, and whether it is finite."""
    learned = {n: x for n, x in tensors.items() if n.startswith(("detector.", "held_out."))}
    return {
        name: [str(x.dtype).removeprefix("torch."), bool(x.isfinite().all()), *x.shape]
        for name, x in learned.items()
    }


def _fill(model: nn.Module, tensors: dict[str, Tensor], own: bool) -> None:
    """Loads the tensors, whose precision the network takes."""
    kinds: dict[torch.dtype, torch.dtype] = {}
    empty: dict[str, Tensor] = model.state_dict()
    for name, x in tensors.items():
        if x.isnan().any() or (name in empty and x.isinf().any()):
            raise ValueError(f"{name} holds NaN or infinite values")
        before = empty.get(name, x).dtype
        same_kind = before.is_floating_point == x.dtype.is_floating_point
        if name in empty and (not same_kind or kinds.setdefault(before, x.dtype) != x.dtype):
            raise ValueError(f"{name} is {x.dtype}, unlike the others")
    if not own:
        model.to(kinds.get(dtype_of(model)))
    copies = {name: x.clone() for name, x in tensors.items()} if own else tensors
    try:
        model.load_state_dict(copies, assign=own)
    except RuntimeError as error:
        raise ValueError(f"it does not fit the network it names: {error}") from error


def _try(model: Any, told: Description) -> None:
    """Lets the model answer once, on a grey image: what does not fit together fails here."""
    if model.adapter is None:
        return
    kinds = (x.dtype for x in model.tap.network.parameters() if x.is_floating_point())
    image = torch.full((1, *model.adapter.shape), 0.5, dtype=next(kinds, torch.float32))
    image = image.to(device_of(model.tap))  # A network that was given may lie on a GPU.
    try:
        with torch.no_grad():
            seen = model.extractor(image)
            _, score = model.decide(seen)
    except Exception as error:  # Whatever its parts raise that were not saved together.
        raise ValueError(f"its parts do not fit each other: {error}") from error
    if score.isnan().any():
        raise ValueError("it scores a grey image as NaN")
    classes = seen.logits.shape[1] + model.detector.added
    check_classes(told, classes)
    groups = len(model.held_out.sizes) if model.held_out.fitted else 1
    if groups not in (1, classes):
        raise ValueError(f"it has held-out scores of {groups} classes, unlike its network")


def check_classes(told: Description, number: int) -> None:
    """Raises unless names and thresholds are as many as the network's classes."""
    names = told.classes
    if names is not None and (len(names) != number or len(set(names)) < number):
        raise ValueError(f"its network has {number} classes and it names {names!r:.200}")
    if "unknown" in (names or ()):
        raise ValueError("a class is called unknown, which is the answer for all others; rename it")
    values = [] if told.threshold is None else told.threshold["values"]
    if len(values) not in (0, 1, number):
        raise ValueError(f"its network has {number} classes and it has {len(values)} thresholds")


def read(path: Path) -> tuple[Path, Description]:
    """The tensors' file and the description, checked against each other."""
    path = recovered(path)
    file = path / TENSORS if path.is_dir() else path
    if not file.exists():
        raise ValueError(f"{path} holds no {TENSORS}; give a folder that `openset fit` has written")
    try:
        header(file)
        with safe_open(file, "pt") as tensors:
            description = parse_json((tensors.metadata() or {})["openset"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ValueError(f"{file} is no model of openset, or is truncated: {error}") from error
    if path.is_dir():
        _check_readable(path / DESCRIPTION, file, description)
    return file, call(f"the model {file}", Description, description)


def saved_name(folder: Path) -> str | None:
    """The name that a saved model says it was given; None for one that says none."""
    try:
        name = read_json(folder / DESCRIPTION).get("name")
    except (ValueError, OSError):
        return None
    return name if isinstance(name, str) else None


def _check_readable(readable: Path, file: Path, description: dict[str, Any]) -> None:
    if not readable.exists():
        raise ValueError(f"{readable} is missing; load {file} alone, or restore the folder")
    told = read_json(readable)
    if told.pop("sha256", None) != digest_of(file):
        raise ValueError(f"{file} is not the file that {readable} describes; restore the folder")
    if told != description:
        raise ValueError(f"{readable} was changed after it was written; restore the folder")
