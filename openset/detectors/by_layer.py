"""A score as a sum over layers: what each adds to what those before it have said."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from openset.activations import Activations
from openset.densities import GaussianMixture
from openset.detectors.base import Detector
from openset.detectors.gemos import GeMOS
from openset.detectors.vmdls import VMDLSb


def splits(detector: Detector) -> bool:
    """Whether a detector's score is a sum over its layers."""
    if type(detector) is VMDLSb:
        return True
    mixed = isinstance(detector, GeMOS) and isinstance(detector.density, GaussianMixture)
    return mixed and detector.calibration == "none" and detector.density.reduce is None


def by_layer(detector: Detector, rows: Activations) -> dict[str, Tensor]:
    """Nats of surprise `[M]` by layer, which sum to the score of a detector that `splits`.

    A layer's part is −log p of its features given those of the layers before it, under the class
    that scores the row. A Gaussian whose inverse covariance has a triangular factor gives them
    without computing any other; so does a mixture, from the likelihoods of its first features.
    """
    layers = tuple(detector.layers_read or ())
    edges = [0]
    for layer in layers:
        edges.append(edges[-1] + rows.values(layer).shape[1])
    x = rows.stacked(layers).double()
    found = _gaussians(detector, rows, x, edges)
    if isinstance(detector, GeMOS):
        volume = detector.density.standardise.scale.double().log().cumsum(0)
        found = found + torch.cat([volume.new_zeros(1), volume])[edges[1:]]
    parts = found.diff(dim=1, prepend=torch.zeros_like(found[:, :1]))
    return dict(zip(layers, parts.unbind(1), strict=True))


def _gaussians(detector: Detector, rows: Activations, x: Tensor, edges: Sequence[int]) -> Tensor:
    """−log p `[M, layers]` of the features up to each edge."""
    if isinstance(detector, GeMOS):
        density = detector.density
        x = density.standardise(x.float()).double()
        return torch.stack(
            [
                _prefixes(density.weight[c], density.mean[c], density.factor[c], row, edges)
                for c, row in zip(rows.logits.argmax(1).tolist(), x, strict=True)
            ]
        )
    assert isinstance(detector, VMDLSb)
    one = x.new_zeros(1)
    best = detector.class_scores(rows).argmax(1).tolist()
    return torch.stack(
        [
            _prefixes(one, detector.mean[c][None], detector.whitening[c].mT[None], row, edges)
            for c, row in zip(best, x, strict=True)
        ]
    )


def _prefixes(
    weight: Tensor, mean: Tensor, factor: Tensor, row: Tensor, edges: Sequence[int]
) -> Tensor:
    """−log p `[layers]` of the first features of a row `[D]`, up to each edge.

    Args:
        weight: Log weights `[K]` of the mixture.
        mean: `[K, D]`.
        factor: Of the inverse covariance, P Pᵀ: `[K, D, D]` upper triangular, `[1, D, D]` if
            shared, or `[K, D]` for a diagonal one.
        row: The features.
        edges: Where the layers begin and end.
    """
    away, factor = row - mean.double(), factor.double()
    if factor.dim() == 2:
        white, deviation = away * factor, factor
    else:
        white = (away[:, None] @ factor).squeeze(1)
        deviation = factor.diagonal(dim1=1, dim2=2)
    each = deviation.log() - math.log(2 * math.pi) / 2 - white.square() / 2
    ends = each.cumsum(1)[:, [edge - 1 for edge in edges[1:]]]
    return -(weight.double()[:, None] + ends).logsumexp(0)
