"""Generalized ODIN: one part of a divided logit, after a step that raises it."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.extractors.base import Extractor
from openset.extractors.perturb import Perturb, step
from openset.extractors.tap import Tap

Part = Literal["similarity", "domain"]


class GeneralizedODIN(Detector):
    """Scores an image by one part of its divided logits: how unlike each class, or how strange.

    For a network trained with the objective `generalized-odin`. The score is −max h, or, with
    `part="domain"`, the logit of 1 − g, which ranks as −g does. Both may be read after a step of
    length ε along the sign of the gradient that raises the part; `openset tune` without unknown
    data takes the ε under which held-out known images gain most, as the paper does.

    Paper: Hsu et al., *Generalized ODIN*, 2020, https://arxiv.org/abs/2002.11297.

    Args:
        part: "similarity" for h, best with DeConf-C and -E, or "domain" for g.
        epsilon: ε in pixel units (0…1); 0 takes no step.

    Example:
        >>> import torch
        >>> h = torch.tensor([[0.9, 0.1], [0.2, 0.3]])
        >>> GeneralizedODIN().score(Activations(h, {"similarity": h}))
        tensor([-0.9000, -0.3000])
    """

    name = "generalized-odin"
    objectives = ("generalized-odin",)
    grid = {"epsilon": (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)}  # noqa: RUF012

    def __init__(self, part: Part = "similarity", epsilon: float = 0.0):
        super().__init__()
        if part not in get_args(Part):
            raise ValueError(f"part must be one of {', '.join(get_args(Part))}; got {part!r}")
        self.part: Part = part
        self.epsilon = step(epsilon)
        self.layers = (part,)

    def score(self, rows: Activations) -> Tensor:
        return -rows.values(self.part).amax(1)

    @property
    def looks_again(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.epsilon > 0

    def view(self, tap: Tap) -> Extractor:
        return Perturb(tap, self, self.epsilon) if self.looks_again else tap
