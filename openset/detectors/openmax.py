"""OpenMax: logits revised by how far an image lies from each class mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.densities.base import need_rows
from openset.detectors.base import Detector
from openset.detectors.mahalanobis import squared_distances
from openset.detectors.rows import Rows, choose_layers
from openset.detectors.tails import pareto, within
from openset.moments import Moments

Distance = Literal["euclidean", "cosine", "euclidean-cosine"]

Law = Literal["weibull", "pareto"]


TRANSLATION = 10_000.0
"""Distance by which libMR moves a tail off zero before it fits; here in deviations of the tail."""


class OpenMax(Detector):
    """Scores an image by its log-odds of belonging to no class, from its distances to class means.

    Bendale & Boult, 2016, https://arxiv.org/abs/1511.06233. Each class's mean is taken over its
    correctly classified training rows, and a Weibull distribution is fitted to the largest of their
    distances. An image takes from the logits of its α best classes a share that grows with its
    distance to each, and what is taken is the logit of "unknown".

    Distances are computed to every class, so a score does not depend on the batch. The tail is
    translated as in libMR, but in units of its own deviation: the scale of the features is free.

    Args:
        tail: Number of a class's largest distances that are fitted.
        alpha: Number of best classes that are revised; all where there are fewer.
        layers: Layers that distances are taken of; the logits, as in the paper.
        distance: "euclidean", "cosine", or "euclidean-cosine", the published code's sum of a 200th
            of the Euclidean distance and the cosine distance.
        law: What is fitted to the largest distances: "weibull" as in the paper, or "pareto", the
            generalised Pareto distribution of their excess over the smallest of them.

    Example:
        >>> logits = torch.eye(2).repeat(50, 1) * 9 + torch.randn(100, 2)
        >>> openmax = OpenMax().fit([Activations(logits, labels=torch.arange(100) % 2)])
        >>> seen = Activations(torch.tensor([[9.0, 0.0], [40.0, 30.0]]))
        >>> openmax.score(seen).diff().item() > 0
        True
    """

    name = "openmax"
    mean: Tensor
    shape: Tensor
    offset: Tensor
    location: Tensor
    unit: Tensor

    def __init__(
        self,
        tail: int = 20,
        alpha: int = 10,
        layers: Sequence[str] = ("logits",),
        distance: Distance = "euclidean",
        law: Law = "weibull",
    ):
        super().__init__()
        if distance not in get_args(Distance):
            raise ValueError(f"distance must be one of {get_args(Distance)}; got {distance!r}")
        if law not in get_args(Law):
            raise ValueError(f"law must be one of {get_args(Law)}; got {law!r}")
        if tail < 2 or alpha < 1:
            raise ValueError(f"tail must be at least 2 and alpha 1; got {tail} and {alpha}")
        self.tail, self.alpha, self.layers = tail, alpha, layers
        self.distance: Distance = distance
        self.law: Law = law

    def fit(self, batches: Iterable[Activations]) -> Self:
        self.found_layers = choose_layers(batches, self.layers)
        rows = Rows(batches, self.found_layers, correct=True)
        moments = Moments.of(rows, rows.classes, "diag")
        need_rows(moments.count, 2, self, "train longer, or give more images of it")
        self.keep(mean=moments.mean.float())
        self._fit_tails(self._largest(rows))
        return self

    def _largest(self, rows: Rows) -> list[Tensor]:
        """The largest distances of each class's rows to its mean."""
        largest = [torch.zeros(0)] * rows.classes
        for x, labels in rows:
            own = self.distances(x).gather(1, labels[:, None]).squeeze(1)
            for c in labels.unique().tolist():
                both = torch.cat([largest[c].to(own), own[labels == c]])
                largest[c] = both.topk(min(self.tail, len(both))).values
        return largest

    def _fit_tails(self, tails: list[Tensor]) -> None:
        fit = fit_high if self.law == "weibull" else fit_excess
        fits = [fit(tail, c) for c, tail in enumerate(tails)]
        columns = torch.tensor(fits, dtype=torch.float32, device=self.mean.device).unbind(1)
        self.keep(**dict(zip(("shape", "offset", "location", "unit"), columns, strict=True)))

    def distances(self, x: Tensor) -> Tensor:
        """Distances of rows `[M, D]` to every class mean, `[M, K]`."""
        mean = self.mean.to(x.dtype)
        if self.distance == "euclidean":
            return euclidean(x, mean)
        cosine = euclidean(F.normalize(x, dim=1), F.normalize(mean, dim=1)).square() / 2
        return cosine if self.distance == "cosine" else euclidean(x, mean) / 200 + cosine

    def outlying(self, x: Tensor) -> Tensor:
        """The probability that each class's own rows lie nearer its mean, `[M, K]`."""
        z = (self.distances(x) - self.location) / self.unit
        if self.law == "pareto":
            return within(z, self.shape, torch.ones_like(self.shape))
        z = z / TRANSLATION
        log_hazard = self.shape * z.clamp_min(-0.999999).log1p() + self.offset
        return -torch.expm1(-log_hazard.exp())

    def revised(self, rows: Activations) -> tuple[Tensor, Tensor]:
        """The revised logits `[M, K]` and the logit of "unknown" `[M]`."""
        logits = rows.logits
        alpha = min(self.alpha, logits.shape[1])
        weights = torch.arange(alpha, 0, -1, device=logits.device) / alpha
        best = logits.topk(alpha).indices
        weight = torch.zeros_like(logits).scatter(1, best, weights.to(logits).expand_as(best))
        taken = logits * weight * self.outlying(rows.stacked(self.layers_read)).to(logits.dtype)
        return logits - taken, taken.sum(1)

    def class_scores(self, rows: Activations) -> Tensor:
        return self.revised(rows)[0]

    def score(self, rows: Activations) -> Tensor:
        known, unknown = self.revised(rows)
        return unknown - known.logsumexp(1)


def euclidean(x: Tensor, centres: Tensor) -> Tensor:
    """Distances of rows `[M, D]` to centres `[K, D]`, to the bit the same in any batch."""
    if torch.compiler.is_exporting():
        return squared_distances(x, centres).sqrt()  # ONNX has no cdist.
    return torch.cdist(x, centres, compute_mode="donot_use_mm_for_euclid_dist")


def fit_excess(tail: Tensor, c: int) -> tuple[float, float, float, float]:
    """A generalised Pareto fit of the largest distances of class `c`, as `fit_high` gives its own.

    Returns:
        Shape ξ, 0, location (the smallest of the tail) and unit (the scale σ).
    """
    x = tail.double().sort().values
    shape, scale = pareto((x - x[0])[1:])
    check_spread(x, float(scale), c)
    return float(shape), 0.0, float(x[0]), float(scale)


def check_spread(tail: Tensor | np.ndarray, spread: float, c: int) -> None:
    """Raises where the largest distances of class `c` are all the same."""
    if spread <= 1e-9 * abs(float(tail[0])):
        raise ValueError(
            f"the {len(tail)} largest distances of class {c} are all {float(tail[0]):g}, so no "
            "tail can be fitted; check its images, or raise the tail"
        )


def fit_high(tail: Tensor, c: int) -> tuple[float, float, float, float]:
    """A Weibull fit of the largest distances of class `c`, translated as libMR does.

    With z = (distance − location) / unit, its probability is 1 − exp(−((z + T) / λ)^κ) for the
    translation T.

    Returns:
        Shape κ, κ log(T / λ), location (the smallest of the tail) and unit (the tail's deviation).
    """
    from scipy.stats import weibull_min  # Slow to import.

    x = tail.double().cpu().numpy()
    location, unit = float(x.min()), float(x.std())
    check_spread(x, unit, c)
    moved = (x - location) / unit + TRANSLATION
    # The moments of the logarithm start the search where it ends.
    shape = np.pi / np.sqrt(6) / np.log(moved).std()
    scale = np.exp(np.log(moved).mean() + np.euler_gamma / shape)
    found: Any = weibull_min.fit(moved, shape, floc=0, scale=scale)
    shape, _, scale = map(float, found)
    return shape, shape * np.log(TRANSLATION / scale), location, unit
