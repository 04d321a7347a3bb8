"""The contract of every detector: activations in, one score out, higher = more unknown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.arrays import (
    Array,
    activations_of,
    check_one_look,
    like,
    taking_arrays,
)
from openset.detectors.leading import Leading
from openset.extractors.base import Extractor
from openset.extractors.extract import finite
from openset.extractors.tap import Tap
from openset.fitted import Fitted
from openset.spec import as_names

FOUND = "found_layers"
"""The entry of a saved state that holds the names of the layers a fit chose, as JSON text."""


class Detector(Fitted):
    """Turns activations into a score per image or per pixel; higher means more unknown.

    A subclass writes `score`, and `fit` if it learns something. It never sees the network: all that
    it knows comes through the activations, so one forward pass serves every detector.

    Stored embeddings will do in place of a network: `fit(X, y)` and `score_samples(X)` take plain
    arrays of features and logits.

    `layers` names the features that it reads: `()` for the logits alone, None for the default. It
    stays as it was given; what `fit` chose is `found_layers`, which is learned, saved and loaded.
    """

    kind: ClassVar[str] = "detector"
    held_out: bool = False
    """Whether `adjust` has something to learn from known data that no fit has seen."""

    looks_again: bool = False
    """Whether `view` sends an image through the network once more than the tap does."""

    layers: Sequence[str] | None = ()

    found_layers: Sequence[str] | None = None
    """The layers that `fit` chose on the network it was fitted on; None if it chose none."""

    objectives: ClassVar[Sequence[str]] = ()
    """The training methods whose networks it is for; any will do if none is named."""

    grid: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """The values of its settings that `openset tune` tries where they are not the usual ones."""

    added: int = 0
    """Classes that it knows beyond those of the network."""

    tuned_on: Sequence[str] = ()
    """Names of the data that the settings were chosen on; all results and saved models say so."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for name in vars(cls).keys() & {"fit", "adjust"}:
            setattr(cls, name, taking_arrays(vars(cls)[name]))

    @property
    def learns(self) -> bool:
        """Whether `fit` learns something, so that it must come before `score`."""
        return type(self).fit is not Detector.fit

    @taking_arrays
    def fit(self, batches: Iterable[Activations]) -> Self:
        """Learns from activations of known training data; `batches` may be read several times.

        Plain arrays will do, `fit(X, y, logits=L)`, as `score_samples` takes them: y `[N]` are the
        classes 0…K−1. Without y and logits all rows are of one class.
        """
        return self

    @taking_arrays
    def adjust(self, held_out: Iterable[Activations]) -> Self:
        """Learns what must come from held-out known data: a temperature, ranks. After `fit`."""
        return self

    def score(self, rows: Activations) -> Tensor:
        """Scores `[M]` of M rows, each from its own row alone; higher = more unknown."""
        raise NotImplementedError

    def score_samples(
        self, x: Array | Mapping[str, Array] | None = None, *, logits: Array = None
    ) -> Array:
        """Scores `[N]` of plain arrays; higher = more unknown, the other way round in scikit-learn.

        `Threshold.conformal(scores)` makes a threshold of the scores of held-out known rows.

        Args:
            x: Features `[N, D]`, those before the network's last layer, or several by the names of
                their layers.
            logits: `[N, K]`, for detectors that read them.

        Raises:
            ValueError: For a detector that needs what is not there: logits, the weights of the
                network's last layer, or the network itself.

        Example:
            >>> import numpy as np
            >>> from openset.detectors import KNN
            >>> x = np.arange(12.0).reshape(6, 2)
            >>> KNN(k=1).fit(x).score_samples(x).round(3).tolist()
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        """
        check_one_look(self)
        with torch.no_grad():
            return like(self(activations_of(x, None, logits)), x, logits)

    def training_score(self, rows: Activations) -> Tensor:
        """Scores `[M]` of rows that `fit` learned from, labels with them.

        A method that knows how it would score each row had it been left out gives that; the others
        give `score`, by which the rows look more familiar than new ones of their class do.
        """
        return self.score(rows)

    def confidence(self, score: Tensor) -> Tensor | None:
        """The confidence in 0…1 that a paper shows in a score's place, if it does."""
        return None

    def class_scores(self, rows: Activations) -> Tensor:
        """Scores whose argmax is the label, `[M, K]`; the logits unless the method has its own."""
        return rows.logits

    def judge(self, rows: Activations) -> tuple[Tensor, Tensor]:
        """The known class that fits best and `score`; overridden where they share work."""
        return Leading(self.class_scores(rows)).label, self.score(rows)

    @property
    def layers_read(self) -> Sequence[str] | None:
        """The layers that `score` reads: those that `fit` chose, or else those of the setting."""
        return self.layers if self.found_layers is None else self.found_layers

    def view(self, tap: Tap) -> Extractor:
        """The extractor whose activations `score` wants; the tap itself unless it must look again.

        Detectors whose views have the same `key` share a pass. `fit` always reads plain
        activations.
        """
        return tap

    def forward(self, activations: Activations) -> Tensor:
        """Scores `[N, *grid]` of a batch."""
        parts = pieces(activations.beside(self))
        score = torch.cat([self.score(rows) for rows in parts])
        finite(score, f"the scores of {self.name}")
        return score.view(len(activations), *activations.grid)

    def answer(self, activations: Activations) -> tuple[Tensor, Tensor]:
        """The known class that fits best and the score of each row, `[M]` both."""
        judged = map(self.judge, pieces(activations.beside(self)))
        labels, scores = zip(*judged, strict=True)
        return torch.cat(labels), finite(torch.cat(scores), f"the scores of {self.name}")

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.found_layers is not None:
            text = json.dumps(list(self.found_layers)).encode()
            destination[prefix + FOUND] = torch.tensor(list(text), dtype=torch.uint8)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # Not a buffer, as an exported graph cannot read names from a tensor.
        found = state_dict.pop(prefix + FOUND, None)
        self.found_layers = None if found is None else tuple(json.loads(bytes(found.tolist())))
        named = None if self.layers is None else as_names(self.layers)
        if named is not None and not set(self.found_layers or ()) <= set(named):
            raise ValueError(
                f"{self.name} was fitted on the layers {', '.join(self.found_layers or ())}; "
                f"its setting names {', '.join(named) or 'none'}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


PIECE = 2**13
"""Pixels that are scored at once, so that what lies between fits a processor's cache."""


def pieces(activations: Activations) -> list[Activations]:
    """Rows for `Detector.score`: all images of a batch, or the pixels of each in pieces."""
    if not activations.grid or torch.compiler.is_exporting():
        return [activations.rows().single()]
    # Image by image, as the rows of several at once would be a copy, pixel by pixel.
    maps = (activations[i : i + 1].rows() for i in range(len(activations)))
    return [rows[i : i + PIECE].single() for rows in maps for i in range(0, len(rows), PIECE)]
