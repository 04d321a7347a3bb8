"""The answers about files as a page: the report, without truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openset.activations import UNKNOWN
from openset.data.readable import Readable
from openset.evaluation.gallery import SHOWN, Details, interesting
from openset.evaluation.results import Results
from openset.evaluation.rows import Case
from openset.model.maps import original_of
from openset.model.open_set import OpenSet
from openset.model.predict import Answer
from openset.reporting.page import report
from openset.scoring.scored import Scored
from openset.scoring.threshold import ThresholdRecord

HELD_OUT, GIVEN = "held-out known images", "your images"
"""Names of the two sets of scores on the page."""


class Told:
    """Notes of each answer what the page shows of it, as it passes.

    Args:
        model: The model that answers.
        images: The images that it answers about.
    """

    def __init__(self, model: OpenSet, images: Readable):
        self.model, self.images = model, images
        self.paths: list[str] = []
        self.nearest: list[str] = []
        self.scores: list[float] = []

    def passing(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """The same answers."""
        for answer in answers:
            self.paths.append(answer.path or "")
            self.nearest.append(str(answer.nearest))
            self.scores.append(answer.score)
            yield answer

    def report(self, path: Path, values: Tensor | None) -> Path:
        """Writes the page.

        Args:
            path: The file to write.
            values: Another threshold `[1]` than the model's, set by hand.
        """
        results = self.results(values)
        return report(results, path, title="What is unknown here", truth=False)

    def results(self, values: Tensor | None) -> Results:
        """The answers as results without figures, beside the held-out known scores."""
        model, results = self.model, Results()
        case = Case(detector=model.detector.name, known=HELD_OUT)
        names = list(map(str, model.classes or dict.fromkeys(self.nearest)))
        place = {name: c for c, name in enumerate(names)}
        # In double precision, as the answers were decided.
        given = Scored(
            torch.tensor(self.scores, dtype=torch.float64),
            torch.full((len(self.scores),), UNKNOWN),
            torch.tensor([place[name] for name in self.nearest], dtype=torch.long),
        )
        scores, groups = model.held_out.samples()
        results.scored[case] = {HELD_OUT: Scored(scores, groups, groups), GIVEN: given}
        results.thresholds[case] = self._record(values)
        results.classes[case.run] = names
        if model.held_out.fitted:
            results.held_out[case] = model.held_out
        self._keep_images(results, case, given)
        return results

    def _record(self, values: Tensor | None) -> ThresholdRecord:
        if values is not None:
            return ThresholdRecord(value=float(values))
        threshold = self.model.threshold
        return ThresholdRecord(value=float("inf")) if threshold is None else threshold.record()

    def _keep_images(self, results: Results, case: Case, given: Scored) -> None:
        """Reads again the images that the page shows, as their files hold them."""
        value = results.thresholds[case].get("value")
        if not len(given):
            return
        positions = {path: i for i, path in enumerate(self.images.images.paths)}
        for i in interesting([(given, value)], SHOWN, known=True):
            picture = original_of(self.images.images, positions[self.paths[i]])
            image = torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)
            results.keep_images(case, GIVEN, {i: image}, {i: Details(path=self.paths[i])})
