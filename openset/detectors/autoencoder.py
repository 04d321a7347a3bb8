"""What an autoencoder of known images cannot draw again."""

from __future__ import annotations

from torch import Tensor, nn

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.extractors.reconstruct import Residual, need_network
from openset.extractors.tap import Tap


class AutoEncoder(Detector):
    """Scores a pixel, or a whole image by the mean, by how far its reconstruction is from it.

    An autoencoder of known images draws again what it knows and fails on the rest; the score is the
    sum over channels of |x − x̂|. No classifier is asked, but the label is still its own. Fine
    texture is hard to draw whether known or not, so that the score is often little above chance.

    Paper: Baur et al., *Deep Autoencoding Models for Unsupervised Anomaly Segmentation in Brain MR
    Images*, 2018, https://arxiv.org/abs/1804.04488. What its published code makes of the residual
    afterwards suits brains alone, and is left out.

    Args:
        autoencoder: From images to reconstructions, trained on the same training images; on the
            command line, the folder of a run that `openset train DATA --network
            spatial-autoencoder --objective reconstruction:loss=l1` wrote: `autoencoder:RUN`. A
            saved model holds it.

    Example:
        >>> import torch
        >>> tap, image = Tap(nn.Sequential(nn.Conv2d(1, 3, 1))), torch.rand(2, 1, 8, 8)
        >>> detector = AutoEncoder(nn.Identity())
        >>> detector(detector.view(tap)(image)).max().item()
        0.0
    """

    name = "autoencoder"
    looks_again = True

    def __init__(self, autoencoder: nn.Module):
        super().__init__()
        need_network(autoencoder)
        self.autoencoder = autoencoder

    def view(self, tap: Tap) -> Residual:
        """The tap, with each pixel's distance to its reconstruction."""
        return Residual(tap, self.autoencoder)

    def score(self, rows: Activations) -> Tensor:
        if "residual" not in rows.extra:
            raise ValueError(
                "autoencoder needs activations with extra['residual']; extract them with "
                "detector.view(tap) in place of the tap"
            )
        return rows.extra["residual"]
