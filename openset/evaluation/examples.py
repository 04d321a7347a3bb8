"""A second look at the images that the report shows: what is known of each, beside its score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from openset.activations import Activations
from openset.data import ImageSet
from openset.detectors import Detector, Fusion
from openset.detectors.by_layer import by_layer, splits
from openset.evaluation.gallery import TRAINING, Details, nearest_training
from openset.evaluation.results import Results
from openset.evaluation.rows import Case
from openset.extractors.tap import Tap
from openset.scoring.views import Views

USUAL = 500
"""Held-out known images, at most, among which the part of a layer is ranked."""


@dataclass
class Examples:
    """Looks again at a few images of each set, and keeps them with what it finds.

    Args:
        groups: The taps, with the detectors by name that read them.
        classes: Names of the known classes, or None.
        training: The images that the network was trained on, to show the nearest ones.
        held_out: Held-out known images, to say which layer made a score.
    """

    groups: Sequence[tuple[Tap, Mapping[str, Detector]]]
    classes: Sequence[str] | None = None
    training: ImageSet | None = None
    held_out: ImageSet | None = None

    def keep(self, results: Results, run: Case, sources: Mapping[str, Any]) -> None:
        """Keeps the images that the report shows, from sources that can be read by index."""
        for data, indices in results.wanted_images(run).items():
            source = sources[data]
            if not isinstance(source, torch.utils.data.Dataset):
                continue
            chosen: Any = (
                source.subset(indices)
                if isinstance(source, ImageSet)
                else torch.utils.data.Subset(source, indices)
            )
            told = dict(zip(indices, self._looked_into(chosen), strict=True))
            paths = chosen.paths if isinstance(chosen, ImageSet) else [""] * len(indices)
            near = self._nearest(results, run, chosen)
            for i, path, pairs in zip(indices, paths, near, strict=True):
                told[i] |= Details(path=path, near=pairs)
            shown = {i: torch.as_tensor(chosen[place][0]) for place, i in enumerate(indices)}
            results.keep_images(run, data, shown, told)

    def _looked_into(self, images: Any) -> list[Details]:
        """For each image the class that each detector finds second, and what its parts say."""
        second: dict[str, list[int]] = {}
        parts: dict[str, list[list[tuple[str, float]]]] = {}
        for name, detector, rows in self._rows(images):
            scores = detector.class_scores(rows)
            found = scores.topk(min(2, scores.shape[1])).indices[:, -1]
            second.setdefault(name, []).extend(found.tolist())
            if rare := self._parts(name, detector, rows):
                each = zip(*(p.tolist() for p in rare.values()), strict=True)
                parts.setdefault(name, []).extend(list(zip(rare, p, strict=True)) for p in each)
        return [
            Details(
                runner_up={name: found[i] for name, found in second.items()},
                parts={name: found[i] for name, found in parts.items()},
            )
            for i in range(len(images))
        ]

    @torch.no_grad()
    def _rows(
        self, images: Any, *, layered: bool = False
    ) -> Iterator[tuple[str, Detector, Activations]]:
        """The rows of each batch for each detector, or for those whose score is a sum of layers."""
        for tap, detectors in self.groups:
            wanted = {n: d for n, d in detectors.items() if splits(d) or not layered}
            if not wanted:
                continue
            for _, _, looks in Views(tap, wanted).stream(images):
                for names, seen in looks:
                    for name in names:
                        yield name, wanted[name], seen.beside(wanted[name]).rows().single()

    def _parts(self, name: str, detector: Detector, rows: Activations) -> dict[str, Tensor]:
        """How rare the members of a fusion, or the layers, find each row: p-values by part."""
        if isinstance(detector, Fusion):
            rare = (-detector.surprise(rows)).exp()
            return dict(zip((d.name for d in detector.detectors), rare.unbind(1), strict=True))
        if name not in self._usual:
            return {}
        usual = self._usual[name]
        return {
            layer: (1 + (usual[layer] >= nats.cpu()[:, None]).sum(1)) / (1 + len(usual[layer]))
            for layer, nats in by_layer(detector, rows).items()
        }

    @cached_property
    def _usual(self) -> dict[str, dict[str, Tensor]]:
        """By detector and layer, what held-out known images get."""
        if self.held_out is None:
            return {}
        step = -(-len(self.held_out) // USUAL)
        chosen = self.held_out.subset(torch.arange(0, len(self.held_out), step))
        found: dict[str, dict[str, list[Tensor]]] = {}
        for name, detector, rows in self._rows(chosen, layered=True):
            for layer, nats in by_layer(detector, rows).items():
                found.setdefault(name, {}).setdefault(layer, []).append(nats.cpu())
        return {
            name: {layer: torch.cat(each) for layer, each in layers.items()}
            for name, layers in found.items()
        }

    def _nearest(self, results: Results, run: Case, images: Any) -> list[list[tuple[int, float]]]:
        """The training images nearest to each image, which it keeps too, with their distances."""
        if self.training is None:
            return [[] for _ in range(len(images))]
        tap, _ = self.groups[0]
        near = nearest_training(Tap(tap.network, ("penultimate",), tap.head), images, self.training)
        indices = sorted({i for pairs in near for i, _ in pairs})
        chosen, names = self.training.subset(indices), self.classes
        told = {
            i: Details(path=path, label=str(names[c] if names else c))
            for i, path, c in zip(indices, chosen.paths, chosen.labels.tolist(), strict=True)
        }
        pictures = {i: chosen[place][0] for place, i in enumerate(indices)}
        results.keep_images(run, TRAINING, pictures, told)
        return near
