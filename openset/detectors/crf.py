"""Max-softmax of class maps that a conditional random field has smoothed."""

from __future__ import annotations

from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.leading import Leading
from openset.detectors.logits import positive
from openset.extractors.smooth import Smooth
from openset.extractors.tap import Tap


class CRF(Detector):
    """Scores a pixel by one minus its largest class probability, after neighbours have agreed.

    A fully connected conditional random field smooths the class maps by mean field. Nothing is
    trained. Whole images have no neighbours: of them it is `msp`. It is exported, at the size that
    the images have.

    Paper: Krähenbühl & Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge
    Potentials*, 2011, https://arxiv.org/abs/1210.5644; as a score by Hendrycks et al.,
    https://arxiv.org/abs/1911.11132. Their kernel is called bilateral, but reads the class maps
    divided by 13, beside which distance alone counts; so does the kernel here. It is a mean over
    the neighbours that there are, as smoothed maps darken at the border otherwise.

    Args:
        sigma: Standard deviation of the neighbourhood in pixels, as published.
        weight: How much the neighbours count, as published; less changes less.
        iterations: Rounds of the mean field; published are 100, which change little after these.

    Example:
        >>> import torch
        >>> tap, detector = Tap(torch.nn.Identity()), CRF(sigma=2)
        >>> detector(detector.view(tap)(torch.rand(1, 3, 9, 9))).shape
        torch.Size([1, 9, 9])
    """

    name = "crf"
    looks_again = True

    def __init__(self, sigma: float = 10.0, weight: float = 10.0, iterations: int = 10):
        super().__init__()
        if weight < 0 or iterations < 0:
            raise ValueError(
                f"weight and iterations must be at least 0; got {weight} and {iterations}"
            )
        self.sigma, self.weight = positive(sigma, "sigma"), weight
        self.iterations = iterations

    def view(self, tap: Tap) -> Smooth:
        """The tap, with smoothed class maps."""
        return Smooth(tap, self.sigma, self.weight, self.iterations)

    def score(self, rows: Activations) -> Tensor:
        return Leading(self.class_scores(rows)).unsure

    def class_scores(self, rows: Activations) -> Tensor:
        if "smoothed" not in rows.features:
            raise ValueError(
                "crf needs activations with features['smoothed']; extract them with "
                "detector.view(tap) in place of the tap"
            )
        return rows.features["smoothed"]
