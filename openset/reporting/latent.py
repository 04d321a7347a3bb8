"""Pictures of the features that a network gives known and unknown images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from torch import Tensor

from openset.activations import Activations, concatenate
from openset.data import ImageSet
from openset.detectors import VMDLSb
from openset.evaluation.evaluate import Model
from openset.extractors.extract import stream
from openset.extractors.tap import Tap

DRAWN = 500
"""Images of each set in the pictures of a report: t-SNE takes seconds for so many."""


def pictures(
    models: Mapping[str, Model],
    known: ImageSet,
    unknown: Mapping[str, ImageSet],
    classes: Sequence[str] | None = None,
    network: str = "the network",
) -> dict[str, bytes]:
    """Draws for the report a network that is scored by the Gaussians of its layers (VMDLS).

    Figures 1 and 4 of the paper: t-SNE of the ensemble of layers with each unknown set, and the
    latent space itself if it has two dimensions.

    Args:
        models: Fitted models of one network; without a `VMDLSb` among their detectors there is
            nothing to draw.
        known: Known test images.
        unknown: Unknown images by name.
        classes: Names of the known classes, instead of the model's own.
        network: The name of the network in the titles.

    Returns:
        PNG files by their titles.
    """
    model = next((each for each in models.values() if isinstance(each.detector, VMDLSb)), None)
    if model is None:
        return {}
    layers, classes = model.detector.layers_read, classes or model.classes
    mean = ["mean"] if "mean" in getattr(model.tap.network, "stages", ()) else []
    tap = Tap(model.tap.network, [*(layers or ()), *mean], model.tap.head)
    seen = _seen(tap, known)
    drawn: dict[str, bytes] = {}
    for name, images in unknown.items():
        other = _seen(tap, images)
        drawn[f"{network}: the ensemble of {known.name} and {name} by t-SNE"] = png(
            tsne(seen, other, layers, classes=classes)
        )
        if "mean" in seen.features and seen.values("mean").shape[1] == 2:
            drawn[f"{network}: the latent space of {known.name} and {name}"] = png(
                latent(seen, other, classes=classes)
            )
    return drawn


def _seen(tap: Tap, images: ImageSet) -> Activations:
    """The activations of some images, evenly drawn from the set."""
    some_of_them = torch.linspace(0, len(images) - 1, min(DRAWN, len(images))).long()
    return concatenate(stream(tap, images.subset(some_of_them)))


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def tsne(
    known: Activations,
    unknown: Activations,
    layers: Sequence[str] | None = None,
    *,
    images: int = 2000,
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> Figure:
    """Draws known images by class, and unknown ones in black, where t-SNE puts their features.

    Distances between far groups mean little in such a picture.

    van der Maaten & Hinton 2008, "Visualizing Data using t-SNE",
    https://jmlr.org/papers/v9/vandermaaten08a.html

    Args:
        known: Activations of known images, with labels.
        unknown: Activations of unknown images.
        layers: Layers to put side by side; None takes every feature.
        images: At most so many of each are drawn, chosen by the seed.
        classes: Names of the known classes.
        seed: Decides the choice and the layout.

    Example:
        >>> x = Activations(torch.zeros(9, 2), {"g": torch.randn(9, 4)}, torch.arange(9) % 2)
        >>> [axes.get_title() for axes in tsne(x, x).axes]
        ['t-SNE of g']
    """
    generator = torch.Generator().manual_seed(seed)
    known, unknown = some(known, images, generator), some(unknown, images, generator)
    features = torch.cat([known.stacked(layers), unknown.stacked(layers)]).cpu()
    # Perplexity must be below the number of rows; a third of them is scikit-learn's usual 30 at 90.
    perplexity = min(30.0, len(features) / 3)
    layout = TSNE(random_state=seed, perplexity=perplexity, init="pca").fit_transform(
        features.numpy()
    )
    names = ", ".join(known.features if layers is None else layers)
    figure, axes = _figure(f"t-SNE of {names}")
    points = torch.from_numpy(layout)
    _scatter(axes, points[: len(known)], _labels(known), points[len(known) :], classes)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def latent(
    known: Activations,
    unknown: Activations | None = None,
    layer: str = "mean",
    *,
    images: int = 2000,
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> Figure:
    """Draws a two-dimensional latent space as it is, known images by class and unknown in black.

    Args:
        known: Activations of known images, with labels.
        unknown: Activations of unknown images.
        layer: The layer to draw; it must have two dimensions.
        images: At most so many of each are drawn, chosen by the seed.
        classes: Names of the known classes.
        seed: Decides the choice.

    Example:
        >>> x = Activations(torch.zeros(9, 2), {"mean": torch.randn(9, 2)}, torch.arange(9) % 2)
        >>> latent(x).axes[0].get_title()
        'mean'
    """
    generator = torch.Generator().manual_seed(seed)
    known = some(known, images, generator)
    points = known.values(layer)
    if points.shape[1:] != (2,):
        raise ValueError(
            f"layer {layer!r} is {list(points.shape)}; a picture needs [N, 2], so train with "
            "size=2, or use tsne"
        )
    far = points[:0] if unknown is None else some(unknown, images, generator).values(layer)
    figure, axes = _figure(layer)
    _scatter(axes, points, _labels(known), far, classes)
    axes.set_aspect("equal", adjustable="datalim")
    return figure


def some(activations: Activations, rows: int, generator: torch.Generator) -> Activations:
    """At most so many rows, chosen at random, in their order."""
    activations = activations.rows()
    if len(activations) <= rows:
        return activations
    return activations[torch.randperm(len(activations), generator=generator)[:rows].sort().values]


def _labels(known: Activations) -> Tensor:
    if known.labels is None:
        raise ValueError("the known activations have no labels; extract them from labelled data")
    return known.labels.cpu()


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _scatter(
    axes: Axes, known: Tensor, labels: Tensor, unknown: Tensor, classes: Sequence[str] | None
) -> None:
    """One colour per class; no legend where there are too many classes to tell apart."""
    present = labels.unique().tolist()
    colour = {c: f"C{i}" for i, c in enumerate(present)} if len(present) <= 10 else {}
    for c in present:
        x, y = known[labels == c].detach().cpu().numpy().T
        name = classes[c] if classes else str(c)
        axes.scatter(x, y, s=4, color=colour.get(c), label=name)
    if len(unknown):
        x, y = unknown.detach().cpu().numpy().T
        axes.scatter(x, y, s=4, color="black", marker="x", linewidths=0.5, label="unknown")
    if len(present) <= 20:
        axes.legend(markerscale=3, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
