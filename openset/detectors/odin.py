"""ODIN: a softened softmax, read again after a small step that makes the network surer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.leading import Leading
from openset.detectors.logits import positive
from openset.extractors.base import Extractor
from openset.extractors.perturb import Perturb, step
from openset.extractors.tap import Tap


class ODIN(Detector):
    """Scores an image by max-softmax at a high temperature, after a step to its predicted class.

    Liang, Li & Srikant, 2018, https://arxiv.org/abs/1706.02690. The step is
    x − ε·sign(−∇ log S_ŷ(x; T)); images that belong gain more from it than others.

    Args:
        temperature: T, divides the logits.
        epsilon: ε in pixel units (0…1).
        std: Channel standard deviations that ε is divided by, for a network that takes normalised
            images; None for one that normalises inside, as those of openset do.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> odin = ODIN(epsilon=0.002)
        >>> odin(odin.view(Tap(network))(torch.rand(5, 1, 2, 2))).shape
        torch.Size([5])
    """

    name = "odin"

    def __init__(
        self,
        temperature: float = 1000.0,
        epsilon: float = 0.0014,
        std: Sequence[float] | None = None,
    ):
        super().__init__()
        self.temperature = positive(temperature, "temperature")
        if std is not None and not (len(std) and min(std) > 0):
            raise ValueError(f"std is a number above 0 for each channel; got {std}")
        self.epsilon, self.std = step(epsilon), std

    def score(self, rows: Activations) -> Tensor:
        return Leading(rows.logits, self.temperature).unsure

    @property
    def looks_again(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.epsilon > 0

    def view(self, tap: Tap) -> Extractor:
        if not self.looks_again:
            return tap
        std = None if self.std is None else torch.tensor(self.std)
        return Perturb(tap, self, self.epsilon, std)
