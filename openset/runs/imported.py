"""Import a network that was trained elsewhere into a run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from openset import networks
from openset.data import Adapter, Data, batches, load_known
from openset.data.loaders import per_pixel
from openset.data.preprocessing import told_by
from openset.errors import unknown_name
from openset.files import complete_folder, save_tensors
from openset.networks.base import normalises
from openset.networks.checkpoint import OtherOutputs
from openset.networks.device import choose_device, device_of
from openset.networks.layers import find_head
from openset.networks.outputs import logits_of
from openset.networks.select import select
from openset.networks.watch import evaluating
from openset.runs.recipe import Recipe, fitting_to
from openset.runs.run import Run
from openset.runs.train import check_pixels, of_chance
from openset.training.loop import accuracy

TRIED = 1000
"""Training images that at most are tried to find the outputs that fit the data's classes."""

FITTING = 0.5
"""Share of the training images that outputs must get right at least, to be suggested."""


@dataclass(frozen=True)
class Subject:
    """The things that a network was trained to tell apart, and the way its images come.

    Args:
        classes: Names of the classes.
        adapter: Turns an image into the network's input.
        image: One of its images `[C, H, W]`, to try it on.
        data: The data that it was trained on, if they are given.
    """

    classes: list[str]
    adapter: Adapter
    image: Tensor
    data: Data | None = None

    @classmethod
    def of(cls, data: Data) -> Self:
        """The subject of a network whose data are given."""
        return cls(data.classes, data.adapter, data.train[0][0], data)


def import_run(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    classes: str | None = None,
    outputs: str | Sequence[int] | None = None,
    held_out: str | None = None,
    device: str | torch.device | None = None,
) -> Run:
    """Writes a run of a network as it is, which every other command takes.

    Args:
        recipe: The network, its weights, and the data that it was trained on or for.
        out: The new folder of the run.
        classes: In place of data, the classes as `read_classes` takes them.
        outputs: The network's outputs that stand for the classes, as `read_outputs` takes them;
            None where all do, in this order.
        held_out: Known images that no training has seen, as `Run.load_held_out` takes them.
        device: Where to measure the accuracy, as `choose_device` takes it.

    Raises:
        ValueError: For a folder that is already there, and for a network, weights and data that do
            not fit each other.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} already exists; name another folder, or remove it")
    if (recipe.data is None) == (classes is None):
        raise ValueError("give the data that the network was trained on, or else its classes")
    built = build_network(recipe) if classes is None else build_alone(recipe, read_classes(classes))
    network, subject = built
    chosen = read_outputs(outputs, subject.classes)
    if chosen is not None:
        network = keep_outputs(network, chosen, subject.image[None], recipe.network)
    network = network.to(choose_device(device)).eval()
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if subject.data is not None:
        check_pixels(network, subject.data, recipe.network)
    check_classes(network, subject, recipe.network)
    run = Run(
        folder=out,
        recipe=recipe,
        classes=subject.classes,
        adapter=subject.adapter,
        network=getattr(network, "spec", None) or {},
        held_out=held_out,
    )
    if subject.data is not None:
        measure(run, network, subject.data)
    elif held_out is not None:
        load_known(held_out, run.classes, run.adapter)  # Says now what does not fit.
    with complete_folder(out) as partial:
        save_tensors(network.state_dict(), partial / "network.safetensors")
        replace(run, folder=partial).save()
    return run


def measure(run: Run, network: nn.Module, data: Data) -> None:
    """Notes on a run how much of its test images the network gets right, and a warning."""
    data = run.with_held_out(data)
    if per_pixel(data.test):
        return
    run.accuracy = {"test": accuracy(network, data.test)}
    run.warning = misfit(network, data, run.accuracy["test"])


def read_classes(text: str) -> list[str]:
    """Reads the names of a network's classes.

    Args:
        text: How many there are, which calls them 0, 1, …; their names with commas between; or a
            file of names, one a line or a JSON list, in the order of the outputs.

    Example:
        >>> read_classes("3"), read_classes("road,sky")
        (['0', '1', '2'], ['road', 'sky'])
    """
    file = Path(text)
    if text.isdecimal():
        names = [str(c) for c in range(int(text))]
    elif file.is_file():
        names = _listed(file)
    else:
        names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise ValueError(
            f"classes is {text!r}; give how many there are, at least two names with commas "
            "between, each once, or a file of them, one a line"
        )
    return names


def read_outputs(outputs: str | Sequence[int] | None, classes: Sequence[str]) -> list[int] | None:
    """Reads which of a network's outputs stand for the data's classes, one for each class.

    Args:
        outputs: Positions from 0, or as text `0,217,482`; or a file of the network's class names,
            one a line in the order of its outputs, or a JSON list of them. A line may name a class
            several times: `tench, Tinca tinca`.
        classes: Names of the data's classes.

    Raises:
        ValueError: For another number of outputs than of classes, and for a class that the file
            does not name.
    """
    if outputs is None:
        return None
    if isinstance(outputs, str):
        words = outputs.replace("+", ",").split(",")
        numbers = all(word.strip().isdecimal() for word in words)
        chosen = [int(word) for word in words] if numbers else _by_name(Path(outputs), classes)
    else:
        chosen = list(outputs)
    if len(chosen) != len(classes):
        raise ValueError(
            f"{len(chosen)} outputs are named for {len(classes)} classes; name one for each of "
            f"{', '.join(classes[:10])}{', …' * (len(classes) > 10)}, in this order"
        )
    return chosen


def _by_name(file: Path, classes: Sequence[str]) -> list[int]:
    if not file.is_file():
        raise ValueError(
            f"outputs is {str(file)!r}; give positions such as 0,217,482, or a file of the "
            "network's class names, one a line"
        )
    places: dict[str, int] = {}
    for i, line in enumerate(_listed(file)):
        for name in (line, *line.split(",")):
            places.setdefault(_plain(name), i)
    for name in classes:
        if _plain(name) not in places:
            raise ValueError(f"{file}: {unknown_name('class', _plain(name), places)}")
    return [places[_plain(name)] for name in classes]


def _listed(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8")
    return list(map(str, json.loads(text))) if text.lstrip()[:1] == "[" else text.splitlines()


def _plain(name: str) -> str:
    return name.strip().casefold().replace("_", " ")


def build_network(recipe: Recipe) -> tuple[nn.Module, Subject]:
    """The recipe's network with its weights, and the data as it wants them.

    Where the recipe names no size, images are prepared as the network's library prepares them.
    """
    library = recipe.network.partition(":")[0] in networks.LIBRARIES
    asked = library and recipe.size is None  # Before, only the classes count.
    data = recipe.load_data(Adapter((224, 224), recipe.channels or 3) if asked else None)
    network, told = _filled(recipe, len(data.classes), data.adapter)
    if recipe.size is None and (asked or told):
        data = recipe.load_data(told)
    return network, Subject.of(data)


def build_alone(recipe: Recipe, classes: list[str]) -> tuple[nn.Module, Subject]:
    """The recipe's network with its weights, for images that no data tell of."""
    size = recipe.size
    sides = (size, size) if isinstance(size, int) else size
    adapter = Adapter(sides or (224, 224), recipe.channels or 3)
    network, told = _filled(recipe, len(classes), adapter)
    if sides is None and told is None:
        raise ValueError(
            f"nothing says how large the images of {recipe.network} are; give --size, such as 224 "
            "or 360x640 for height and width"
        )
    adapter = told if sides is None and told is not None else adapter
    return network, Subject(classes, adapter, torch.full(adapter.shape, 0.5))


def keep_outputs(network: nn.Module, outputs: Sequence[int], image: Tensor, name: str) -> nn.Module:
    """The network with only some of its outputs, as `select` keeps them, tried on an image."""
    head = find_head(network, image)
    with torch.no_grad(), evaluating(network):
        before = logits_of(network(image))
        network = select(network, outputs, head)
        kept = before.index_select(1, torch.tensor(list(outputs)))
        if not torch.allclose(logits_of(network(image)), kept, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"the outputs of {name} are not those of its last linear map, {head}; "
                "choose among them in a network of your own: module:factory"
            )
    return network


def _filled(recipe: Recipe, classes: int, adapter: Adapter) -> tuple[nn.Module, Adapter | None]:
    """The network with its weights, and the adapter that it asks for, if it says one.

    Where it wants a mean and deviation taken off, it comes behind a `Normalize`.
    """

    def built(classes: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network = networks.build(recipe.network, **fitting_to(classes, adapter))
        return network if recipe.weights is None else networks.load_weights(network, recipe.weights)

    try:
        network = built(classes)
    except OtherOutputs as other:
        network = built(other.outputs)
    told = told_by(network)
    mean, std = told.pop("mean", None), told.pop("std", None)
    if mean and std and not normalises(network):
        network = networks.normalised(network, mean, std)
    return network, Adapter(**told) if told else None


def check_classes(network: nn.Module, subject: Subject, name: str) -> None:
    """Raises for a network of another number of classes; says which of its outputs seem theirs."""
    with torch.no_grad(), evaluating(network):
        count = logits_of(network(subject.image[None].to(device_of(network)))).shape[1]
    classes, data = len(subject.classes), subject.data
    if count == classes:
        return
    where = f"{data.name} {classes} classes" if data else f"{classes} classes are named"
    problem = f"{name} has {count} outputs and {where}"
    if count < classes:
        left_out = "leave out those that it does not know: --known-classes …"
        raise ValueError(f"{problem}; {left_out if data else 'name those that it knows'}")
    raise ValueError(
        f"{problem}; say which outputs these are: --outputs and {classes} positions, or "
        f"a file of the network's class names{suggestion(network, data) if data else ''}"
    )


def misfit(network: nn.Module, data: Data, share: float) -> str | None:
    """A sentence on a network that is no better than chance at the data's classes, or None."""
    chance = of_chance(share, data.test, len(data.classes))
    if chance is None:
        return None
    return (
        f"{chance}: its outputs are not the data's classes in this order ({_few(data.classes)}), "
        "or it wants its images otherwise: another size, mean or range"
        f"{suggestion(network, data)}"
    )


def suggestion(network: nn.Module, data: Data) -> str:
    """The outputs that fit the classes of training images best, as advice; empty if none do."""
    if per_pixel(data.train):
        return ""
    from scipy.optimize import linear_sum_assignment  # Slow to import.

    hits = _hits(network, data)
    classes, outputs = linear_sum_assignment(hits, maximize=True)
    share = float(hits[classes, outputs].sum() / hits.sum())
    if share < FITTING:
        return ""
    chosen = ",".join(map(str, outputs.tolist()))
    return f"; on training images these fit best ({share:.0%} right): --outputs {chosen}"


def _hits(network: nn.Module, data: Data) -> Tensor:
    """Counts, for training images of each class, which output is largest, `[K, outputs]`."""
    chosen = torch.linspace(0, len(data.train) - 1, min(TRIED, len(data.train))).long()
    counts: Tensor | None = None
    with torch.no_grad(), evaluating(network):
        for image, label in batches(data.train.subset(chosen)):
            logits = logits_of(network(image.to(device_of(network)))).cpu()
            counts = torch.zeros(len(data.classes), logits.shape[1]) if counts is None else counts
            counts.index_put_((label, logits.argmax(1)), torch.ones(len(label)), accumulate=True)
    assert counts is not None
    return counts


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", …" * (len(names) > 5)
