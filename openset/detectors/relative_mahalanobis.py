"""Mahalanobis distance to the nearest class, less the distance to the data as a whole."""

from __future__ import annotations

from torch import Tensor

from openset.activations import Activations
from openset.detectors.mahalanobis import Mahalanobis, whiten
from openset.moments import Moments


class RelativeMahalanobis(Mahalanobis):
    """Scores an image by its Mahalanobis distance to the nearest class, less that to all data.

    Ren et al., 2021, https://arxiv.org/abs/2106.09022: min_k MD_k − MD_0, where MD_0 is the squared
    distance under one Gaussian for all classes. What varies alike in known and unknown images
    counts in both and drops out, which helps with unknown images that are near. One pass.

    Args:
        layers: The layers to read, side by side; None for all stages, penultimate and logits.
        epsilon: Length of the input step that lowers the score, in pixel units; 0 for none.
        shrinkage: Share of the identity mixed into both correlation matrices, 0…1.

    Example:
        >>> import torch
        >>> x = torch.randn(60, 4) + torch.arange(3).repeat(20)[:, None] * 5
        >>> batch = Activations(torch.zeros(60, 3), {"penultimate": x}, torch.arange(3).repeat(20))
        >>> RelativeMahalanobis().fit([batch]).score(batch).shape
        torch.Size([60])
    """

    whole_mean: Tensor
    whole_whitening: Tensor

    def learn(self, moments: Moments) -> None:
        super().learn(moments)
        share = moments.count / moments.count.sum()
        mean = share @ moments.mean
        apart = moments.mean - mean
        covariance = moments.covariance() + (share[:, None] * apart).T @ apart
        whitening = whiten(covariance, mean, self.shrinkage)
        self.keep(whole_mean=mean.float(), whole_whitening=whitening.float())

    def score(self, rows: Activations) -> Tensor:
        x = self.read(rows)
        x = (x - self.whole_mean.to(x.dtype)) @ self.whole_whitening.to(x.dtype)
        return super().score(rows) - x.square().sum(1)
