"""Takes in batch by batch the answers of one detector about one data set, and measures them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from openset.evaluation.maps import Maps
from openset.evaluation.metrics import STANDARD, measure
from openset.scoring.answers import Answer
from openset.scoring.scored import Scored, joined
from openset.scoring.threshold import ThresholdRecord


class Seen(ABC):
    """One data set as one detector sees it: `Images` where images are labelled, else `Pixels`."""

    figures: dict[str, float]
    """Figures of this set alone, by metric."""

    @abstractmethod
    def add(self, answer: Answer) -> None:
        """Takes in a batch."""

    @abstractmethod
    def close(self) -> None:
        """Ends the intake, and frees what only the intake needed."""

    @abstractmethod
    def measure(
        self, known: Seen, metrics: Sequence[str] | None, threshold: ThresholdRecord | None
    ) -> dict[str, float]:
        """Measures this set, as the unknown one, against the known set.

        Args:
            known: The known test data.
            metrics: Names of metrics; None takes all that are usual.
            threshold: For the metrics that need one; without it they are left out.
        """

    @abstractmethod
    def scored(self, *, unknown: bool) -> Scored:
        """Returns the scores that the results keep of one kind of samples, `[N]`."""

    @property
    def maps(self) -> list[Maps]:
        """A few images with their pixels' scores, if this kind of set has such."""
        return []


class Images(Seen):
    """Whole images: every score is kept, and metrics pair a known with an unknown set.

    Args:
        parts: Scores that are there already, as if they had been added.

    Example:
        >>> from torch import tensor
        >>> known = Images(Scored(tensor([0.1, 0.4]), tensor([0, 1]), tensor([0, 1])))
        >>> unknown = Images(Scored(tensor([0.3, 0.9]), tensor([-1, -1]), tensor([1, 0])))
        >>> unknown.measure(known, ["auroc"], None)
        {'auroc': 0.75}
    """

    def __init__(self, *parts: Scored):
        self.parts, self.figures = list(parts), {}

    def add(self, answer: Answer) -> None:
        self.parts.append(answer.scored)

    def close(self) -> None:
        self.parts = [joined(self.parts)]

    def measure(
        self, known: Seen, metrics: Sequence[str] | None, threshold: ThresholdRecord | None
    ) -> dict[str, float]:
        wanted = STANDARD if metrics is None else metrics
        record = threshold or {}
        return measure(
            known.scored(unknown=False),
            self.scored(unknown=True),
            record.get("value"),
            wanted,
            training=record.get("training"),
        )

    def scored(self, *, unknown: bool) -> Scored:
        return joined(self.parts)
