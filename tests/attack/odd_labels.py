"""Labels and loaders of other forms than pairs of images and classes 0…K−1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import openset
from openset.detectors import Detector, build

from .cases import Case
from .material import Material, headed, make_detector, names, small_network, three_classes

DETECTOR = "mahalanobis"
"""Learns from labels, so that a wrong one shows."""


def cases(material: Material, count: int) -> Iterator[Case]:
    """Forms of labels on the way into `fit`, `train` and `evaluate`."""
    for way, use in WAYS.items():
        for name, make in FORMS.items():
            yield Case(f"odd labels: {way}", name, partial(as_meant, use, make), shares=True)
    for name in names():
        for place in ("train", "held out", "activations"):
            learns = type(make_detector(name)).fit is not Detector.fit
            if learns or place == "held out":
                attempt = partial(refuses_99, name, place)
                yield Case(
                    "odd labels: label 99 of 3",
                    f"{name}, {place}",
                    attempt,
                    seconds=30,
                    shares=True,
                )
    for name, make in UNLABELLED.items():
        attempt = partial(unknown_without_labels, make)
        yield Case(
            "odd labels: unknown images", name, attempt, refusable="None" in name, shares=True
        )
    attempt = partial(one_image_a_batch, "temperature")
    yield Case("odd labels: batches of one", "temperature", attempt, refusable=False, shares=True)


def _x(n: int = 120, seed: int = 1) -> tuple[Tensor, Tensor]:
    x, y = three_classes(n, seed)
    return x.clamp(0, 1), y


class Stream(IterableDataset):
    """Pairs that come one after another."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        x, y = _x()
        return iter(zip(x, y.tolist(), strict=True))


class Triples(Dataset):
    """Image, label and the image's number."""

    def __len__(self) -> int:
        return 120

    def __getitem__(self, i: int) -> tuple[Tensor, int, int]:
        x, y = _x()
        return x[i], int(y[i]), i


class Dicts(Triples):
    """Items as Hugging Face gives them."""

    def __getitem__(self, i: int) -> Any:
        x, y = _x()
        return {"image": x[i], "label": int(y[i])}


def with_labels(change: Callable[[Tensor], Any]) -> Callable[[], Any]:
    """Batches whose labels are changed."""
    return lambda: [(_x()[0], change(_x()[1]))]


FORMS: dict[str, Callable[[], Any]] = {
    "1…K": with_labels(lambda y: y + 1),
    "one-hot": with_labels(lambda y: torch.eye(3)[y]),
    "one-hot integers": with_labels(lambda y: torch.eye(3).long()[y]),
    "soft": with_labels(lambda y: torch.eye(3)[y] * 0.8 + 0.2 / 3),
    "[N, 1]": with_labels(lambda y: y[:, None]),
    "floats": with_labels(lambda y: y.float()),
    "floats that are no classes": with_labels(lambda y: y.float() + 0.5),
    "uint8": with_labels(lambda y: y.to(torch.uint8)),
    "lists": with_labels(lambda y: y.tolist()),
    "numpy": with_labels(lambda y: y.numpy()),
    "strings": with_labels(lambda y: [str(c) for c in y.tolist()]),
    "numbers beyond": with_labels(lambda y: y * 50),
    "NaN": with_labels(lambda y: y.float() * torch.nan),
    "None": with_labels(lambda y: None),
    "bool": with_labels(lambda y: y > 0),
    "fewer than images": with_labels(lambda y: y[:50]),
    "a triple": lambda: [(*_x(), torch.arange(120))],
    "a dictionary": lambda: [dict(zip(("image", "label"), _x(), strict=True))],
    "a dictionary of pixels": lambda: [dict(zip(("pixel_values", "labels"), _x(), strict=True))],
    "a data set": lambda: TensorDataset(*_x()),
    "a data set of triples": Triples,
    "a data set of dictionaries": Dicts,
    "a loader": lambda: DataLoader(TensorDataset(*_x()), 32),
    "a loader of triples": lambda: DataLoader(Triples(), 32),
    "a stream": Stream,
    "a loader of a stream": lambda: DataLoader(Stream(), 32),
    "a generator": lambda: (batch for batch in [_x()]),
    "nothing": list,
}
"""Labels and loaders; what can be read in one way only may be accepted."""


def fitted_to(train: Any) -> Tensor:
    """Scores after a fit."""
    detectors = {"d": build(DETECTOR)}
    model = openset.fit(small_network(), detectors, train, [_x(seed=2)], accept=0.9)["d"]
    return model(_x(12, 3)[0])[1]


def calibrated_on(held_out: Any) -> Tensor:
    """The threshold per class."""
    detectors = {"d": build("energy")}
    how = {"accept": 0.5, "per_class": True}
    model = openset.fit(small_network(), detectors, [_x()], held_out, **how)["d"]
    return torch.tensor(model.threshold.values)


def trained_on(data: Any) -> Tensor:
    """Weights after two steps."""
    objective = openset.objectives.CrossEntropy(small_network())
    how = {"epochs": 1, "batch_size": 60, "lr": 0.1, "progress": False}
    network = openset.train(objective, data, **how)
    return network(_x(12, 3)[0]).detach()


WAYS = {"fitted": fitted_to, "held out": calibrated_on, "trained": trained_on}


def as_meant(use: Callable[[Any], Tensor], make: Callable[[], Any]) -> str | None:
    """The same as with plain pairs."""
    expected, got = use([_x()]), use(make())
    return None if torch.allclose(expected, got, atol=1e-3) else "accepted, with another answer"


def refuses_99(name: str, place: str) -> str | None:
    """One label beyond the classes."""
    x, y = _x()
    y[7] = 99
    network, detector = headed(name, small_network()), make_detector(name)
    if place == "activations":
        (batch,) = openset.extract(openset.Tap(network, network.stages), [_x()])
        batch.labels[7] = 99
        detector.fit([batch])
        return "was fitted"
    pairs = [(x, y), _x(seed=2)]
    train, held_out = pairs if place == "train" else pairs[::-1]
    openset.fit(network, {"d": detector}, [train], [held_out], accept=0.9)
    return "was fitted"


class Images(Dataset):
    """Images alone."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Tensor:
        return torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(i))


def _images() -> Tensor:
    return torch.stack([Images()[i] for i in range(40)])


UNLABELLED: dict[str, Callable[[], Any]] = {
    "a data set of images": Images,
    "a loader of images": lambda: DataLoader(Images(), 16),
    "a tensor data set": lambda: TensorDataset(_images()),
    "a list of batches": lambda: list(_images().split(16)),
    "pairs with -1": lambda: [(_images(), torch.full((40,), -1))],
    "pairs with the classes of another set": lambda: [(_images(), torch.arange(40) % 17)],
    "pairs with None": lambda: [(_images(), None)],
}


def unknown_without_labels(make: Callable[[], Any]) -> str | None:
    """Unknown images need no label."""
    network = small_network()
    tap = openset.Tap(network)
    results = openset.evaluate(tap, [build("energy")], known=[_x()], unknown=make())
    expected = openset.evaluate(
        tap, [build("energy")], known=[_x()], unknown=[(_images(), torch.full((40,), -1))]
    )
    first, second = (_auroc(found) for found in (results, expected))
    return None if first == second else f"AUROC {first}, for {second}"


def _auroc(results: openset.Results) -> list[float]:
    return [row.value for row in results.rows if row.metric == "auroc"]


def one_image_a_batch(name: str) -> str | None:
    """Held-out images that come one by one, as from a server."""
    x, y = _x()
    batches = [(x[i : i + 1], y[i : i + 1]) for i in range(120)]
    openset.fit(small_network(), {"d": build(name)}, [(x, y)], batches, accept=0.9)
    return None
