"""Classes that a fitted detector learns afterwards, each from a handful of images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.activations import Activations
from openset.densities import GaussianMixture
from openset.detectors.base import Detector
from openset.detectors.gemos import GeMOS
from openset.detectors.knn import KNN
from openset.detectors.mahalanobis import Mahalanobis
from openset.detectors.vmdls import VMDLSb
from openset.extractors.base import Extractor
from openset.extractors.tap import Tap
from openset.fitted import Fitted
from openset.spec import Range

MOST = 10_000
"""The most classes that can be added, lest a file of a few bytes ask for any number."""


class AddedClass(Fitted):
    """A class as a detector would see it, learned from few rows.

    `shift` puts its surprise on the detector's own scale.
    """

    kind = "added class"
    shift: Tensor

    def fit(self, detector: Any, x: Tensor) -> Self:
        """Learns from rows `[n, D]` of the layers that the fitted detector reads."""
        raise NotImplementedError

    def surprise(self, detector: Any, x: Tensor) -> Tensor:
        """Surprise `[M]` of rows `[M, D]`, before the shift; higher = less of this class."""
        raise NotImplementedError


class NearMean(AddedClass):
    """One more class mean for `Mahalanobis`, under the covariance that all classes share."""

    mean: Tensor

    def fit(self, detector: Mahalanobis, x: Tensor) -> Self:
        self.keep(mean=_whitened(detector, x).mean(0))
        return self

    def surprise(self, detector: Mahalanobis, x: Tensor) -> Tensor:
        return (_whitened(detector, x) - self.mean.to(x.dtype)).square().sum(1)


class NearRows(AddedClass):
    """More rows for `KNN`; of so few the nearest counts."""

    rows: Tensor

    def fit(self, detector: KNN, x: Tensor) -> Self:
        self.keep(rows=F.normalize(x, dim=1))
        return self

    def surprise(self, detector: KNN, x: Tensor) -> Tensor:
        x, rows = F.normalize(x, dim=1), self.rows.to(x.dtype)
        return (x - rows[(x @ rows.T).argmax(1)]).norm(dim=1)


class OneGaussian(AddedClass):
    """One more Gaussian for `VMDLSb` and `GeMOS`.

    Few rows cannot tell a covariance, so theirs is drawn towards the mean covariance of the other
    classes, which counts as much as D rows: (n S + D Σ) / (n + D), the mode of an inverse Wishart
    prior but for constants.
    """

    mean: Tensor
    whitening: Tensor
    log_scale: Tensor

    def fit(self, detector: VMDLSb | GeMOS, x: Tensor) -> Self:
        x = _standardised(detector, x).double()
        (n, dim), usual = x.shape, usual_covariance(detector)
        centred = x - x.mean(0)
        covariance = (centred.T @ centred + dim * usual.to(x)) / (n + dim)
        factor = torch.linalg.cholesky(covariance)
        identity = torch.eye(dim).to(factor)
        whitening = torch.linalg.solve_triangular(factor, identity, upper=False)
        log_scale = factor.diagonal().log().sum() + dim / 2 * math.log(2 * math.pi)
        if isinstance(detector, GeMOS):
            log_scale = log_scale + detector.density.standardise.volume
        self.keep(mean=x.mean(0).float(), whitening=whitening.float(), log_scale=log_scale.float())
        return self

    def surprise(self, detector: VMDLSb | GeMOS, x: Tensor) -> Tensor:
        x = _standardised(detector, x)
        away = (x - self.mean.to(x.dtype)) @ self.whitening.to(x.dtype).T
        return away.square().sum(1) / 2 + self.log_scale.to(x.dtype)


def _whitened(detector: Mahalanobis, x: Tensor) -> Tensor:
    return (x - detector.centre.to(x.dtype)) @ detector.whitening.to(x.dtype)


def _standardised(detector: VMDLSb | GeMOS, x: Tensor) -> Tensor:
    """Rows in the space in which the detector has its Gaussians."""
    return detector.density.standardise(x) if isinstance(detector, GeMOS) else x


def usual_covariance(detector: VMDLSb | GeMOS) -> Tensor:
    """The mean over the classes, and their components, of the Gaussians' covariances `[D, D]`."""
    if isinstance(detector, VMDLSb):
        deviation = torch.linalg.inv(detector.whitening.double())
        return (deviation @ deviation.mT).mean(0)
    density = detector.density
    weight = density.weight.double().exp() / density.classes
    factor = density.factor.double()
    if density.covariance == "diag":
        return (weight[..., None] / factor.square()).sum((0, 1)).diag()
    mean = torch.zeros_like(factor[0, 0])
    for c, k in torch.cartesian_prod(*map(torch.arange, weight.shape)).tolist():
        # A factor shared by all components stands once.
        deviation = torch.linalg.inv(factor[c, min(k, factor.shape[1] - 1)])
        mean += weight[c, k] * (deviation.T @ deviation)
    return mean


KINDS: dict[type[Detector], type[AddedClass]] = {
    Mahalanobis: NearMean,
    KNN: NearRows,
    VMDLSb: OneGaussian,
    GeMOS: OneGaussian,
}
"""The detectors that can learn one more class, and how each sees it."""


class MoreClasses(Detector):
    """Scores as the detector inside it does, which has learned more classes after its fit.

    The network stays as it is and so does the detector: an image keeps score and label unless one
    of the added classes finds it less strange. Then that class is its label, and the score is the
    one under that class. `openset.life.add_class` adds one and sets the threshold again.

    New class means stand beside trained ones as in Mensink et al., 2013, "Distance-based image
    classification: generalizing to new classes at near-zero cost",
    https://doi.org/10.1109/TPAMI.2013.83.

    Args:
        detector: A `Mahalanobis`, `KNN`, `VMDLSb` or `GeMOS` with Gaussian mixtures; None for
            `Mahalanobis`.
        added: Classes that were added.

    Example:
        >>> x = torch.randn(60, 4) + torch.arange(3).repeat(20)[:, None] * 5
        >>> batch = Activations(torch.eye(3).repeat(20, 1), {"penultimate": x},
        ...                     torch.arange(3).repeat(20))
        >>> MoreClasses(KNN(k=3)).fit([batch]).with_class(x[:5] + 50, shift=0.0).added
        1
    """

    def __init__(
        self, detector: Detector | None = None, added: Annotated[int, Range(least=0, most=MOST)] = 0
    ):
        super().__init__()
        self.detector = Mahalanobis() if detector is None else detector
        self.tuned_on, self.held_out = self.detector.tuned_on, self.detector.held_out
        self.layers, self.added = self.detector.layers, added
        kind = kind_of(self.detector)
        self.classes = nn.ModuleList(kind() for _ in range(added))

    @property
    def layers_read(self) -> Sequence[str] | None:
        return self.detector.layers_read

    @property
    def looks_again(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.detector.looks_again

    def view(self, tap: Tap) -> Extractor:
        return self.detector.view(tap)

    def confidence(self, score: Tensor) -> Tensor | None:
        return self.detector.confidence(score)

    def fit(self, batches: Iterable[Activations]) -> Self:
        self.detector.fit(batches)
        return self

    def adjust(self, held_out: Iterable[Activations]) -> Self:
        self.detector.adjust(held_out)
        return self

    def with_class(self, x: Tensor, shift: float | Tensor) -> MoreClasses:
        """The same with one more class, of rows `[n, D]` of the layers that are read."""
        learned = kind_of(self.detector)().fit(self.detector, x)
        learned.keep(shift=torch.as_tensor(shift, dtype=torch.float32, device=x.device))
        return self._of([*self.classes, learned])

    def without_last(self) -> Detector:
        """The same without the class that was added last; the plain detector if that was all."""
        kept = [*self.classes][:-1]
        return self._of(kept) if kept else self.detector

    def _of(self, classes: Sequence[nn.Module]) -> MoreClasses:
        found = type(self)(self.detector, len(classes))
        found.classes = nn.ModuleList(classes)
        return found

    def surprises(self, rows: Activations) -> Tensor:
        """Surprise `[M, added]` under the added classes, on the detector's scale."""
        x = rows.stacked(self.layers_read)
        found = [own.surprise(self.detector, x) + own.shift.to(x.dtype) for own in self._added]
        return torch.stack(found, dim=1)

    @property
    def _added(self) -> list[AddedClass]:
        return [own for own in self.classes if isinstance(own, AddedClass)]

    def score(self, rows: Activations) -> Tensor:
        score = self.detector.score(rows)
        return score.minimum(self.surprises(rows).amin(1)) if self.added else score

    def class_scores(self, rows: Activations) -> Tensor:
        """The detector's own `[M, K]`, and above them each added class that is less strange."""
        own = self.detector.class_scores(rows)
        if not self.added:
            return own
        gain = self.detector.score(rows)[:, None] - self.surprises(rows)
        return torch.cat([own, own.amax(1, keepdim=True) + gain.to(own.dtype)], dim=1)


def kind_of(detector: Detector) -> type[AddedClass]:
    """How a detector sees one more class.

    Raises:
        ValueError: For a detector that cannot learn one more.
    """
    kind = KINDS.get(type(detector))
    mixed = isinstance(detector, GeMOS)
    if kind is None or (mixed and not isinstance(detector.density, GaussianMixture)):
        raise ValueError(
            f"{detector.name} cannot learn one more class; fit mahalanobis, knn, vmdls-b, or gemos "
            "with Gaussian mixtures"
        )
    if mixed and detector.calibration != "none":
        raise ValueError("gemos with calibration=quantile cannot learn one more class; fit without")
    return kind
