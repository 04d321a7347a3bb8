"""The answers about files as a page: the report, without truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openset.activations import UNKNOWN
from openset.data import ImageSet
from openset.data.readable import Readable
from openset.evaluation.gallery import SHOWN, Details, interesting
from openset.evaluation.maps import Maps
from openset.evaluation.results import Results
from openset.evaluation.rows import Case
from openset.model.maps import original_of
from openset.model.open_set import OpenSet
from openset.model.predict import Answer
from openset.networks.device import device_of
from openset.reporting.page import report
from openset.scoring.scored import Scored, joined
from openset.scoring.threshold import ThresholdRecord

TITLE = "What is unknown here"


GIVEN = "your images"
"""Name of the set of images that the answers are about."""


PICTURED, PIXELS = 8, 2_000
"""Images whose pixels are shown, and pixels of each that are drawn for the histogram."""


class Told:
    """Notes of each answer what the page shows of it, as it passes.

    Args:
        model: A model of whole images.
        images: The images that it answers about.
    """

    def __init__(self, model: OpenSet, images: ImageSet):
        self.model, self.images = model, images
        self.paths: list[str] = []
        self.nearest: list[str] = []
        self.scores: list[float] = []
        self.thresholds: dict[str, float] = {}

    def passing(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """The same answers."""
        for answer in answers:
            self.paths.append(answer.path or "")
            self.nearest.append(str(answer.nearest))
            self.scores.append(answer.score)
            self.thresholds[self.nearest[-1]] = answer.threshold
            yield answer

    def report(self, path: Path, *, by_hand: bool) -> Path:
        """Writes the page.

        Args:
            path: The file to write.
            by_hand: Whether another threshold than the model's has decided.
        """
        names = list(dict.fromkeys([*map(str, self.model.classes or ()), *self.nearest]))
        place = {name: c for c, name in enumerate(names)}
        given = Scored(
            torch.tensor(self.scores, dtype=torch.float64),
            torch.full((len(self.scores),), UNKNOWN),
            torch.tensor([place[name] for name in self.nearest], dtype=torch.long),
        )
        values = self._values(names) if by_hand else None
        results, case = results_of(self.model, given, names, values)
        self._keep_images(results, case)
        return report(results, path, TITLE, truth=False)

    def _values(self, names: Sequence[str]) -> list[float]:
        """The threshold that has decided, or that of each class if they differ."""
        different = list(dict.fromkeys(self.thresholds.values()))
        if len(different) < 2:
            return different or [float("inf")]
        return [self.thresholds.get(name, float("inf")) for name in names]

    def _keep_images(self, results: Results, case: Case) -> None:
        """Reads again the images that the page shows, as their files hold them."""
        given, value = results.scored[case][GIVEN], results.thresholds[case].get("value")
        positions = {path: i for i, path in enumerate(self.images.paths)}
        for i in interesting([(given, value)], SHOWN, known=True) if len(given) else []:
            picture = original_of(self.images, positions[self.paths[i]])
            image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
            results.keep_images(case, GIVEN, {i: image}, {i: Details(path=self.paths[i])})


def report_pixels(model: OpenSet, images: ImageSet, path: Path, values: Tensor | None) -> Path:
    """Writes the page about a model that labels pixels, with a few of the images.

    Args:
        model: The model.
        images: The images that it answers about.
        path: The file to write.
        values: Another threshold `[1]` than the model's, set by hand.
    """
    chosen = torch.linspace(0, len(images) - 1, min(PICTURED, len(images))).long()
    generator = torch.Generator().manual_seed(0)
    maps, rows, classes = [], [], 0
    for image, _ in Readable(images.subset(chosen), batch_size=1):
        with torch.no_grad():
            seen = model.extractor(image.to(device_of(model)))
            predicted, score = (x.view(1, *seen.grid).cpu() for x in model.detector.answer(seen))
        scored = Scored(score.double(), torch.full_like(predicted, UNKNOWN), predicted)
        maps.append(Maps.small(image[0], scored[0]))
        pixels = scored.rows()
        rows.append(pixels[torch.randperm(len(pixels), generator=generator)[:PIXELS]])
        classes = seen.logits.shape[1]
    names = list(map(str, model.classes or range(classes)))
    by_hand = None if values is None else values.tolist()
    results, case = results_of(model, joined(rows), names, by_hand)
    results.maps[case] = {GIVEN: maps}
    return report(results, path, TITLE, truth=False)


def results_of(
    model: OpenSet, given: Scored, classes: Sequence[str], values: list[float] | None
) -> tuple[Results, Case]:
    """Answers as results without figures, beside the held-out known scores.

    Args:
        model: The model.
        given: Scores in double precision, as the answers were decided.
        classes: Names of the known classes.
        values: Another threshold than the model's, or one for each class, set by hand.
    """
    case, results = Case(detector=model.detector.name, known="held-out known"), Results()
    results.scored[case] = {case.known: held_out(model), GIVEN: given}
    results.classes[case.run] = list(classes)
    if model.held_out.fitted:
        results.held_out[case] = model.held_out
    if values is not None:
        results.thresholds[case] = ThresholdRecord(value=values[0] if len(values) == 1 else values)
    elif model.threshold is not None:
        results.thresholds[case] = model.threshold.record()
    else:
        results.thresholds[case] = ThresholdRecord(value=float("inf"))
    return results, case


def held_out(model: OpenSet) -> Scored:
    """The held-out known scores of a model, with the class whose threshold applies to each."""
    groups = model.held_out.scores(upper=False) if model.held_out.fitted else []
    numbers = [torch.full((len(scores),), c) for c, scores in enumerate(groups)]
    group = torch.cat([*numbers, torch.zeros(0, dtype=torch.long)])
    return Scored(torch.cat([*groups, torch.zeros(0, dtype=torch.float64)]), group, group)
