"""SynthCP: how little an image is like one drawn from the classes that were seen in it."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.leading import Leading
from openset.extractors.reconstruct import need_network
from openset.extractors.resynthesise import Resynthesise
from openset.extractors.tap import Tap
from openset.spec import Range


class SynthCP(Detector):
    """Scores a pixel by how unlike it is to one drawn from the classes that the network sees.

    A generator draws the image again from the map of its classes, and one minus the cosine of a
    layer's features of both is the score: what is unknown has been taken for some class and is
    drawn as that. Where the largest class probability is above `t` the score is `msp`'s, as
    published. Both stand on one scale without any calibration, and a generator that blurs finds
    known texture strange: after a few epochs the score is often worse than chance where `t` is 1,
    and little but max-softmax where it is not. The label is the classifier's.

    Paper: Xia et al., *Synthesize then Compare: Detecting Failures and Anomalies for Semantic
    Segmentation*, 2020, https://arxiv.org/abs/2003.08440, which compares a pyramid's features at
    five sizes of the image.

    Args:
        generator: From class maps to images, trained on the same known classes; on the command
            line, the folder of a run that `openset train DATA --network spade --objective
            synthesis` wrote: `synthcp:RUN`. A saved model holds it.
        t: The class probability in 0…1 up to which the drawing counts; 1 for everywhere.
        layer: The layer that is compared; None takes the last stage.

    Example:
        >>> from openset.networks import spade
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1))
        >>> tap, detector = Tap(network), SynthCP(spade(classes=2, width=4), layer="0")
        >>> detector(detector.view(tap)(torch.rand(1, 3, 8, 8))).shape
        torch.Size([1, 8, 8])
    """

    name = "synthcp"
    looks_again = True

    def __init__(
        self,
        generator: nn.Module,
        t: Annotated[float, Range(least=0, most=1)] = 0.999,
        layer: str | None = None,
    ):
        super().__init__()
        need_network(generator, "generator")
        self.generator, self.t, self.layer = generator, t, layer

    def view(self, tap: Tap) -> Resynthesise:
        """The tap, with each pixel's likeness to its drawing."""
        return Resynthesise(tap, self.generator, self.layer)

    def score(self, rows: Activations) -> Tensor:
        if "resemblance" not in rows.extra:
            raise ValueError(
                "synthcp needs activations with extra['resemblance']; extract them with "
                "detector.view(tap) in place of the tap"
            )
        doubt = Leading(rows.logits).unsure
        return torch.where(doubt < 1 - self.t, doubt, 1 - rows.extra["resemblance"].to(doubt))
