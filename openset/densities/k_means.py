"""First centres of the components of a mixture, by k-means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from openset.densities.mixtures import Piece


def k_means(
    piece: Piece, clusters: int, generator: torch.Generator, iterations: int = 100
) -> Tensor:
    """Cluster centres `[B, K, D]` of each class's rows: Lloyd's steps from k-means++.

    Arthur & Vassilvitskii (2007), https://dl.acm.org/doi/10.5555/1283383.1283494, in the greedy
    form that scikit-learn uses.
    """
    centres = _plus_plus(piece, clusters, generator)
    for _ in range(iterations):
        share = nearest(piece, centres)[0]
        count = share.sum(1)[..., None]
        moved = torch.where(count > 0, share.mT @ piece.rows / count.clamp_min(1), centres)
        shift = (moved - centres).square().sum((1, 2)).max()
        centres = moved
        if shift < 1e-4:
            break
    return centres


def _plus_plus(piece: Piece, clusters: int, generator: torch.Generator) -> Tensor:
    """Spread-out rows as first centres: of a few drawn by squared distance, the best each time."""
    trials = 2 + int(math.log(clusters))
    weight = piece.mask.to(piece.rows.dtype)
    closest = weight
    centres: list[Tensor] = []
    for k in range(clusters):
        chance = (closest.double() + 1e-12) * piece.mask
        drawn = torch.multinomial(chance.cpu(), 1 if k == 0 else trials, True, generator=generator)
        drawn = drawn.to(piece.rows.device)
        candidates = piece.rows.gather(1, drawn[..., None].expand(-1, -1, piece.rows.shape[2]))
        distance = torch.cdist(piece.rows, candidates).square() * weight[..., None]
        if k > 0:
            distance = torch.minimum(distance, closest[..., None])
        best = distance.sum(1).argmin(1)[:, None]
        closest = distance.gather(2, best[:, None].expand(-1, distance.shape[1], 1)).squeeze(2)
        centres.append(candidates.gather(1, best[..., None].expand(-1, 1, candidates.shape[2])))
    return torch.cat(centres, dim=1)


def nearest(piece: Piece, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Responsibilities that give each row wholly to the nearest of the centres `[B, K, D]`."""
    half = centres.square().sum(-1)[:, None] / 2
    closest = torch.baddbmm(half, piece.rows, centres.mT, alpha=-1).argmin(-1)
    share = torch.nn.functional.one_hot(closest, centres.shape[1]) * piece.mask[..., None]
    return share.to(piece.rows.dtype), torch.zeros(len(centres)).to(centres.device).double()
