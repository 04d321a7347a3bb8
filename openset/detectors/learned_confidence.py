"""Learned confidence: the network's own word for how sure it is."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.extractors.base import Extractor
from openset.extractors.perturb import Perturb, step
from openset.extractors.tap import Tap


class LearnedConfidence(Detector):
    """Scores an image by −log c, c being the confidence that the network has learned to give.

    It ranks as 1 − c does, and tells images apart whose c is 0. It may be read after a step of
    length ε along the sign of the gradient that raises c, which the paper tunes on unknown data;
    `openset tune` without any takes that under which held-out known images gain most. For a network
    trained with the objective `learned-confidence`; it reads the layer `"confidence"`.

    Paper: DeVries & Taylor, *Learning Confidence for Out-of-Distribution Detection in Neural
    Networks*, 2018, https://arxiv.org/abs/1802.04865.

    Args:
        epsilon: ε in pixel units (0…1); 0 takes no step.

    Example:
        >>> import torch
        >>> seen = Activations(torch.zeros(2, 3), {"confidence": torch.tensor([[0.0], [-50.0]])})
        >>> LearnedConfidence().score(seen)
        tensor([ 0.6931, 50.0000])
    """

    layers = ("confidence",)
    objectives = ("learned-confidence",)

    def __init__(self, epsilon: float = 0.0):
        super().__init__()
        self.epsilon = step(epsilon)

    def score(self, rows: Activations) -> Tensor:
        return F.softplus(-rows.values("confidence").squeeze(1))

    @property
    def looks_again(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.epsilon > 0

    def view(self, tap: Tap) -> Extractor:
        return Perturb(tap, self, self.epsilon) if self.looks_again else tap
