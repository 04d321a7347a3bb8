"""A mixture of Gaussians per class, the density that GeMOS found best."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Self

import torch
from torch import Tensor

from openset.densities.base import Density, in_chunks, need_rows, width
from openset.densities.expectation_maximisation import Covariance, fit_mixtures
from openset.densities.k_means import k_means
from openset.densities.mixtures import Mixtures, Piece
from openset.densities.standardise import Standardise
from openset.sampling import reservoir
from openset.spec import Amount, Count

CHUNK = 2**24
"""Largest number of values, in padded rows or in covariances, worked on at once."""


CACHED = 2**17
"""Values of rows that are scored at once under diagonal covariances."""


SHARES = (0.1, 0.03, 0.02, 0.01, 0.003, 0.001, 0.0003)
"""Shares that `shrinkage="auto"` chooses from."""


FOLD = 5
"""Of so many rows of a class one is held out to choose the share."""


HELD = {"full": 2.0, "tied": 2.0, "diag": 2.0**-8}
"""GiB of rows held at once, by the kind of covariance."""


WORK = 15
"""Copies of the covariances worked on at once that a fit takes beside those it keeps; measured."""

MUCH = 2.0
"""GiB beyond which a fit says what its covariances will take."""


class GaussianMixture(Density):
    """Says how unlikely features are under a mixture of Gaussians, in nats.

    McLachlan & Peel, "Finite Mixture Models" (2000), https://doi.org/10.1002/0471721182; used on
    activations by Vendramini et al., "Opening Deep Neural Networks with Generative Models" (2021),
    https://arxiv.org/abs/2105.10013. The score is −log Σ_k π_k N(x; μ_k, Σ_k).

    Features are standardised first, by their mean and deviation over all classes, and the
    likelihood is put back into the original units. Shrinkage is therefore free of scale: logits
    and pooled maps count alike. Every covariance is drawn towards a round one with its *class's*
    mean variance, Σ_k ← (1 − s) S_k + s v I. The target does not collapse with a small component,
    so 1,930 features from 1,250 rows fit, and a feature that never fires in a class costs a finite
    surprise when it does. The share is fixed and not estimated as Ledoit & Wolf's, which assumes
    rows that count once and wholly. Features of MNIST, 458 of them, were likeliest on held-out rows
    at shares of 0.03, 0.01 and 0.001 for 300, 1,250 and 5,000 rows a class.

    Rows that fit into `memory` are held and each class runs on its own; otherwise each EM pass
    reads the batches again, and only the start is computed from a seeded sample.

    Full covariances take memory with the square of the features: 4 bytes × K × D² for each class to
    keep, and 15 times that of the classes worked on to fit, of which a warning tells beyond 2 GiB.

    Args:
        components: Gaussians per class K.
        covariance: "full", "diag", or "tied" (one for all components of a class).
        shrinkage: The share s in 0…1; 0 is plain maximum likelihood, and warns where that is
            singular. "auto" takes the share under which a fifth of each class's rows, held out, is
            likeliest, one for all classes, which takes seven fits more. That share, mostly 0.001 on
            features of CIFAR-10 and MNIST, did not detect better than 0.02, which is the default.
        reduce: Keep this many principal components of the standardised features; the surprise is
            then that of the projection. None keeps all features.
        seeds: Number of starts tried; each class keeps its most likely.
        iterations: The most EM steps.
        tolerance: EM stops where the mean log-likelihood changes by less.
        jitter: Variance added to each feature, as a share of its variance over all classes;
            scikit-learn's `reg_covar` on standardised features.
        memory: GiB of rows held at once. None is 2, which saves time with full covariances, and
            1/256 with diagonal ones, whose passes cost little more than reading the rows.
        seed: Seed of the first start.

    Example:
        >>> x = torch.cat([torch.randn(50, 2), 9 + torch.randn(50, 2)])
        >>> density = GaussianMixture(components=2).fit([x])
        >>> bool(density(torch.tensor([[4.5, 4.5]])) > density(torch.tensor([[9.0, 9.0]])))
        True
    """

    weight: Tensor
    mean: Tensor
    factor: Tensor
    share: Tensor

    def __init__(
        self,
        components: Count = 8,
        covariance: Covariance = "full",
        shrinkage: float | str = 0.02,
        reduce: Count | None = None,
        seeds: Count = 1,
        iterations: Count = 100,
        tolerance: Amount = 1e-3,
        jitter: Amount = 1e-6,
        memory: Amount | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if covariance not in ("full", "diag", "tied"):
            raise ValueError(f"covariance must be full, diag or tied; got {covariance!r}")
        if shrinkage != "auto" and (isinstance(shrinkage, str) or not 0 <= shrinkage <= 1):
            raise ValueError(f"shrinkage is a share in 0…1, or 'auto'; got {shrinkage!r}")
        if components < 1:
            raise ValueError(f"components must be at least 1; got {components}")
        self.components = components
        self.covariance: Covariance = covariance
        self.shrinkage, self.jitter, self.reduce = shrinkage, jitter, reduce
        self.seeds, self.seed, self.memory = seeds, seed, memory
        self.iterations, self.tolerance = iterations, tolerance
        self.standardise = Standardise(reduce)

    def fit_classes(self, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Self:
        held = HELD[self.covariance] if self.memory is None else self.memory
        most = int(held * 2**30 / (4 * width(batches) * classes))
        rows, counts = reservoir(batches, classes, max(most, 64 * self.components), self.seed)
        advice = "use fewer components, or give more images of it"
        need_rows(counts, max(2, self.components), self, advice)
        whole = all(len(x) == n for x, n in zip(rows, counts.tolist(), strict=True))
        self.standardise.fit(batches)
        rows = [self.standardise(x) for x in rows]
        share = self._likeliest(rows) if isinstance(self.shrinkage, str) else self.shrinkage
        self.keep(share=rows[0].new_tensor(float(share)))
        stream = None if whole else _Stream(batches, self)
        self._fit_standardised(rows, stream)
        return self

    def _likeliest(self, rows: list[Tensor]) -> float:
        """The share under which held-out rows are likeliest, of all classes together."""
        held = [x[::FOLD] for x in rows]
        learned = [x[torch.arange(len(x), device=x.device) % FOLD > 0] for x in rows]
        counts = torch.tensor([len(x) for x in learned])
        need_rows(counts, max(2, self.components), self, "give more images of it, or a share")

        def likelihood(share: float) -> float:
            trial = type(self)(**{**self.settings(), "shrinkage": share, "seeds": 1})
            trial.keep(share=rows[0].new_tensor(share))
            trial._fit_standardised(learned, None)
            joint = (
                trial._mixtures(slice(c, c + 1)).log_joint(x[None]) for c, x in enumerate(held)
            )
            return float(sum(part.logsumexp(-1).double().sum() for part in joint))

        return max(SHARES, key=likelihood)

    def _fit_standardised(self, rows: list[Tensor], stream: _Stream | None) -> None:
        """Fits in chunks of classes, or all at once to a stream that `rows` only sample."""
        classes, (k, dim) = len(rows), (self.components, rows[0].shape[1])
        shape = {"full": (k, dim, dim), "diag": (k, dim), "tied": (1, dim, dim)}[self.covariance]
        empty = rows[0].new_empty
        self._warn_large(classes, dim, stream)
        mixtures = Mixtures(empty(classes, k), empty(classes, k, dim), empty(classes, *shape))
        best = torch.full((classes,), -torch.inf, dtype=torch.float64)
        for seed in range(self.seed, self.seed + self.seeds):
            generator = torch.Generator().manual_seed(seed)
            start = empty(classes, k, dim)
            for names in self._chunks(rows):
                piece = self._piece(rows, names)
                start[names] = k_means(piece, k, generator)
                if stream is None:
                    self._improve(mixtures, best, [piece], start[names], names)
            if stream is not None:
                self._improve(mixtures, best, stream, start, torch.arange(classes))
        self.keep(weight=mixtures.weight, mean=mixtures.mean, factor=mixtures.factor)
        self._warn_singular()

    def _chunks(self, rows: list[Tensor]) -> Iterator[Tensor]:
        """Classes that are worked on together: alike in size, as many as a chunk holds."""
        sizes = torch.tensor([len(x) for x in rows])
        order, dim = sizes.argsort(descending=True, stable=True), rows[0].shape[1]
        per_class = 0 if self.covariance == "diag" else self.components * dim**2
        while len(order):
            cost = max(int(sizes[order[0]]) * max(dim, self.components), per_class, 1)
            take = max(1, CHUNK // cost)
            yield order[:take]
            order = order[take:]

    def _piece(self, rows: list[Tensor], names: Tensor) -> Piece:
        chosen = [rows[c] for c in names.tolist()]
        labels = torch.arange(len(chosen)).repeat_interleave(torch.tensor([len(x) for x in chosen]))
        x = torch.cat(chosen)
        return Piece.of(x, labels.to(x.device))

    def _improve(
        self,
        mixtures: Mixtures,
        best: Tensor,
        pieces: Iterable[Piece],
        start: Tensor,
        names: Tensor,
    ) -> None:
        """Runs EM for the named classes and keeps those that are more likely than so far."""
        fitted, likelihood = fit_mixtures(
            pieces,
            start,
            self.covariance,
            shrinkage=float(self.share),
            jitter=self.jitter,
            iterations=self.iterations,
            tolerance=self.tolerance,
            names=names,
        )
        better = (likelihood.cpu() > best[names]).nonzero().flatten()
        best[names[better]] = likelihood.cpu()[better]
        mixtures[names[better]] = fitted[better]

    def _warn_large(self, classes: int, dim: int, stream: _Stream | None) -> None:
        """Says what memory the covariances will take, if it is much."""
        each = dim**2 * {"full": self.components, "tied": 1, "diag": 0}[self.covariance]
        at_once = classes if stream else min(classes, max(1, CHUNK // max(each, 1)))
        kept = 4 * each * classes / 2**30
        needed = kept + WORK * 4 * each * at_once / 2**30
        if needed > MUCH:
            warnings.warn(
                f"{self.covariance} covariances of {dim:,} features × {self.components} components "
                f"× {classes} classes take about {needed:.1f} GiB to fit and {kept:.1f} GiB to "
                "keep; reduce=64 or covariance=diag takes a small part of that",
                stacklevel=4,
            )

    def _warn_singular(self) -> None:
        """Without shrinkage, says where only the jitter keeps a covariance from collapsing."""
        diag = self.covariance == "diag"
        inverse = self.factor if diag else self.factor.diagonal(dim1=-2, dim2=-1)
        pivot = inverse.square().flatten(1).amax(1).reciprocal()
        flat = (pivot <= 2 * self.jitter).nonzero().flatten().tolist()
        if flat and float(self.share) == 0:
            warnings.warn(
                f"the covariance of class {', '.join(map(str, flat[:10]))} is singular but for the "
                f"jitter of {self.jitter:g}: give shrinkage above 0, or reduce",
                stacklevel=4,
            )

    @property
    def classes(self) -> int:
        return len(self.weight)

    def _mixtures(self, index) -> Mixtures:
        return Mixtures(self.weight, self.mean, self.factor)[index]

    def _surprise(self, x: Tensor, index: slice) -> Tensor:
        """Surprise `[M, C]` under the classes of a slice."""
        mixtures, volume = self._mixtures(index), self.standardise.volume

        def score(x: Tensor) -> Tensor:
            return (volume - mixtures.log_joint(self.standardise(x)[None]).logsumexp(-1)).T

        # A full covariance is read once for all rows; a diagonal one costs little beside them, so
        # few enough at a time that what lies between fits a processor's cache.
        diag = self.covariance == "diag"
        return in_chunks(score, x, max(1, CACHED // x.shape[1])) if diag else score(x)

    def surprise(self, x: Tensor, c: int) -> Tensor:
        return self._surprise(x, slice(c, c + 1)).squeeze(1)

    def table(self, x: Tensor) -> Tensor:
        if self.covariance == "diag":
            return self._surprise(x, slice(None))
        return super().table(x)


class _Stream:
    """Standardised pieces of batches, re-iterable."""

    def __init__(self, batches: Iterable[tuple[Tensor, Tensor]], density: GaussianMixture):
        self.batches, self.density = batches, density

    def __iter__(self) -> Iterator[Piece]:
        for x, labels in self.batches:
            known = labels >= 0
            if bool(known.any()):
                yield Piece.of(self.density.standardise(x[known]), labels[known])
