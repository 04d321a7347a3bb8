"""Groups among the images that a model rejects: what may become new classes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openset.extractors.extract import stream
from openset.files import complete_folder
from openset.life.pages import picture_of, write_page
from openset.model.open_set import OpenSet
from openset.model.predict import Inputs, opened, path_of, refuse_skipped
from openset.model.records import spelled
from openset.text import csv_line, encodable, plain_cell

FILES = ("groups.csv", "groups.html")
"""The files of a folder of groups."""

COLUMNS = ("group", "rank", "path", "nearest")

DIRECTIONS = 32
"""Principal directions of the features in which groups are looked for."""

LEAST = 10
"""Images that a group has at least, where nothing else is said and few are rejected."""

SHOWN = 12
"""Images of a group that the page shows."""


@dataclass(frozen=True)
class Group:
    """Rejected images that are alike.

    Args:
        positions: Their positions in what was looked at, the most typical first.
        paths: Their files, where they have any.
        nearest: The known class that fits each best.
    """

    positions: tuple[int, ...]
    paths: tuple[str | None, ...]
    nearest: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def usual(self) -> str:
        """The known class that fits most of them best, and how many."""
        ((name, count),) = Counter(self.nearest).most_common(1)
        return f"{name} ({count} of {len(self)})"


@dataclass(frozen=True)
class Discovery:
    """What was found among images: groups by falling size, and what is in none.

    Args:
        images: The images that were looked at.
        rejected: Those that the model called unknown.
        groups: The groups.
        alone: Positions of the rejected images that are in no group.
    """

    images: int
    rejected: int
    groups: tuple[Group, ...]
    alone: tuple[int, ...]

    def said(self) -> list[str]:
        """What was found, in lines."""
        together = sum(map(len, self.groups))
        return [
            f"{self.rejected} of {self.images} images are unknown; {together} of them form "
            f"{len(self.groups)} groups."
        ]


def discover(
    model: OpenSet, images: Any, least: int | None = None, batch_size: int = 256
) -> Discovery:
    """Groups the images that a model rejects by how alike they are to its network.

    By the leaves of HDBSCAN (Campello et al., 2013, https://doi.org/10.1007/978-3-642-37456-2_14),
    the smallest groups that last, which are purer than the largest. They are found on the layers
    that the detector reads, or on the features before the last layer if it reads none; each feature
    is scaled to deviation 1 among the rejected images, and their principal directions are kept. The
    number of groups need not be known, and images that are like few others are in none.

    A group may be a class that the network has never seen, or known images that look alike and
    strange, so look at it before `add_class`.

    Args:
        model: A calibrated model of whole images.
        images: Pictures in any form that `OpenSet.predict` takes.
        least: Images of a group, at least; None for a hundredth of those rejected, or `LEAST`.
        batch_size: Images per pass.

    Raises:
        ValueError: If fewer images are rejected than a group needs.

    Example:
        >>> import openset
        >>> data = openset.data.load("digits", known_classes=range(6))
        >>> network = openset.networks.cnn(classes=6, channels=1)
        >>> objective = openset.objectives.CrossEntropy(network)
        >>> _ = openset.train(objective, data.train, epochs=4, batch_size=64)
        >>> model = openset.wrap(network, data.train, data.valid, "mahalanobis")
        >>> found = discover(model.with_accept(0.7), data.unknown, least=5)
        >>> found.images, found.rejected == sum(map(len, found.groups)) + len(found.alone)
        (238, True)
    """
    if least is not None and least < 2:
        raise ValueError(f"least is {least}; a group has at least 2 images")
    found = opened(model, images, batch_size)
    x, nearest, positions, count = rejected(model, found)
    least = max(LEAST, len(x) // 100) if least is None else least
    if len(x) < least:
        raise ValueError(
            f"{len(x)} of {count} images are unknown, fewer than the {least} that a group needs; "
            "give more images, or let groups be smaller"
        )
    labels, order = grouped(x.double().numpy(), least)
    names = model.names(nearest)
    paths = [path_of(found, position) for position in positions]

    def group(label: int) -> Group:
        rows = [i for i in order if labels[i] == label]
        return Group(
            tuple(positions[i] for i in rows),
            tuple(paths[i] for i in rows),
            tuple(names[i] for i in rows),
        )

    groups = sorted((group(c) for c in range(labels.max() + 1)), key=len, reverse=True)
    alone = tuple(position for position, c in zip(positions, labels, strict=True) if c < 0)
    return Discovery(count, len(x), tuple(groups), alone)


def rejected(model: OpenSet, found: Any) -> tuple[Tensor, Tensor, list[int], int]:
    """Features `[M, D]`, nearest classes and positions of what is rejected, and how many came."""
    features, nearest, positions, count = [], [], [], 0
    for seen in stream(model.extractor, found):
        if seen.grid:
            raise ValueError("this model labels pixels; groups are made of whole images")
        with torch.no_grad():
            fits, score, threshold = (x.cpu() for x in model.judge(seen))
        unknown = score > threshold
        assert seen.labels is not None
        features.append(seen.stacked(layers_of(model))[unknown])
        nearest.append(fits[unknown])
        positions += seen.labels[unknown].tolist()
        count += len(seen)
    refuse_skipped(found)
    if not features:
        raise ValueError("no images given; give image files, folders of them, or globs")
    return torch.cat(features), torch.cat(nearest), positions, count


def layers_of(model: OpenSet) -> Sequence[str]:
    """The layers in which images are compared."""
    layers = [name for name in model.detector.layers_read or () if name != "logits"]
    return layers or ["penultimate"]


def grouped(x: np.ndarray, least: int) -> tuple[np.ndarray, list[int]]:
    """The group of each row `[M, D]`, −1 for none, and the rows by falling typicality.

    Most typical is the row nearest to the middle of its group.
    """
    from sklearn.cluster import HDBSCAN  # Slow to import.
    from sklearn.decomposition import PCA

    deviation = x.std(0)
    x = (x - x.mean(0)) / np.where(deviation > 0, deviation, 1)
    directions = min(DIRECTIONS, *x.shape)
    x = PCA(directions, svd_solver="full").fit_transform(x)
    near = min(5, least)
    how: dict[str, Any] = {"cluster_selection_method": "leaf", "copy": True}
    labels = HDBSCAN(min_cluster_size=least, min_samples=near, **how).fit(x).labels_
    middles = np.stack([x[labels == c].mean(0) for c in np.unique(labels)])
    away = np.linalg.norm(x - middles[labels - labels.min()], axis=1)
    return labels, away.argsort(kind="stable").tolist()


def write_groups(
    discovery: Discovery, folder: Path, model: OpenSet, images: Any, command: str = ""
) -> None:
    """Writes a folder with `groups.csv` and a page that shows each group's most typical images.

    Args:
        discovery: From `discover`.
        folder: Complete or absent; earlier groups in it are replaced.
        model: The model that rejected the images.
        images: The images that were looked at.
        command: What adds a group to the model, with `{group}` and `{name}` to fill in.
    """
    found = opened(model, images)
    with complete_folder(folder, owns=FILES) as partial:
        with (partial / "groups.csv").open("w", newline="", encoding="utf-8") as file:
            file.write(csv_line(COLUMNS))
            file.writelines(csv_line(row.values()) for row in spelled(_rows(discovery), encodable))
        groups = [
            {
                "number": i, "size": len(group), "usual": group.usual,
                "images": [_shown(found, at) for at in group.positions[:SHOWN]],
            }
            for i, group in enumerate(discovery.groups, 1)
        ]  # fmt: skip
        page = {"groups": groups, "said": discovery.said(), "command": command}
        write_page("groups.html", partial / "groups.html", page)


def _rows(discovery: Discovery):
    for i, group in enumerate(discovery.groups, 1):
        for rank, (path, nearest) in enumerate(zip(group.paths, group.nearest, strict=True), 1):
            yield {"group": i, "rank": rank, "path": path or "", "nearest": nearest}


def _shown(found: Any, position: int) -> str:
    image = found.tensors[position] if isinstance(found, Inputs) else found.images[position][0]
    return picture_of(image)


def group_files(place: str) -> list[str]:
    """The files of a group that `write_groups` wrote, by `FOLDER:NUMBER`, the most typical first.

    Raises:
        ValueError: If there is no such group, or its images are no files.
    """
    folder, _, number = place.rpartition(":")
    table = Path(folder) / "groups.csv"
    if not folder or not table.exists():
        raise ValueError(f"{place} names no group; give FOLDER:NUMBER of openset discover --out")
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = [(row["group"], plain_cell(row["path"])) for row in csv.DictReader(file)]
    except (KeyError, AttributeError, ValueError, csv.Error) as error:
        raise ValueError(f"{table} is damaged ({error}); group the images again") from error
    files = [path for group, path in rows if group == number]
    if not all(files) or not files:
        have = len({group for group, _ in rows})
        raise ValueError(f"{folder} has no group {number} of files; there are groups 1…{have}")
    return files
