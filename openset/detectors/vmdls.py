"""VMDLS: class Gaussians on an ensemble of layers, weighted by a reconstruction error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from openset.activations import Activations
from openset.densities.mixtures import blocks
from openset.detectors.base import Detector
from openset.detectors.leading import Leading
from openset.detectors.rows import Rows, choose_layers, distinct, known, peek
from openset.extractors.reconstruct import Reconstruct, need_network
from openset.extractors.tap import Tap
from openset.moments import Moments
from openset.spec import Amount

Part = Literal["both", "reconstruction"]


class VMDLSb(Detector):
    """Scores an image by its layers' negative log-likelihood under the likeliest class's Gaussian.

    Each class has one full Gaussian over the pooled layers side by side, fitted to all its training
    rows. Score −max_c log p_c(t), label argmax_c. The network is best trained by the objective
    `vmdls`, but any will do. Twenty images per class are enough to fit, thanks to the shrinkage.

    Dinari & Freifeld 2022, "Variational- and Metric-based Deep Latent Space for Out-of-Distribution
    Detection", https://proceedings.mlr.press/v180/dinari22a.html

    Args:
        layers: Layers to put side by side; None takes all stages, the penultimate and, of a network
            with a latent space, μ (`"mean"`, which is also the last of its stages). Of layers that
            are the same tensor, as the last stage and the penultimate can be, `fit` keeps one.
        shrinkage: Share of each covariance replaced by the mean variance times the identity.

    Example:
        >>> x = torch.randn(40, 3)
        >>> data = Activations(torch.zeros(40, 2), {"stage1": x}, labels=torch.arange(40) % 2)
        >>> VMDLSb().fit([data])(data).shape
        torch.Size([40])
    """

    name = "vmdls-b"
    mean: Tensor
    whitening: Tensor
    log_scale: Tensor
    count: Tensor

    def __init__(self, layers: Sequence[str] | None = None, shrinkage: Amount = 1e-3):
        super().__init__()
        self.layers, self.shrinkage = layers, shrinkage

    def fit(self, batches: Iterable[Activations]) -> Self:
        rows = Rows(batches, ())
        layers = choose_layers(batches, self.layers)
        first = peek(batches)
        if self.layers is None:
            latent = ("mean",) if "mean" in first.features else ()
            layers = (*(layer for layer in layers if layer != "logits"), *latent)
        self.found_layers = rows.layers = distinct(first, layers)
        self.learn(Moments.of(rows, rows.classes))
        return self

    def learn(self, moments: Moments) -> None:
        """Keeps the shrunk Gaussian of each class, from its moments."""
        few = (moments.count < 2).nonzero().flatten().tolist()
        if few:
            raise ValueError(f"classes {few} have fewer than 2 training rows; leave them out")
        covariance = shrunk(moments.covariance(), self.shrinkage)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed.any():
            raise ValueError(
                f"the covariance of classes {failed.nonzero().flatten().tolist()} is singular; "
                f"raise shrinkage, which is {self.shrinkage}, or read fewer layers"
            )
        identity = torch.eye(factor.shape[1]).to(factor).expand_as(factor)
        log_scale = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        log_scale = log_scale + factor.shape[1] / 2 * math.log(2 * math.pi)
        self.keep(
            mean=moments.mean.float(),
            whitening=torch.linalg.solve_triangular(factor, identity, upper=False).float(),
            log_scale=log_scale.float(),
            count=moments.count,
        )

    def class_scores(self, rows: Activations) -> Tensor:
        """log p_c(t) of every class, `[M, C]`."""
        t = rows.stacked(self.layers_read)
        mean, whitening = self.mean.to(t.dtype), self.whitening.to(t.dtype)
        # Class by class, as [M, C, D] at once would not fit for many classes.
        squared = [_whitened(t - m, w) for m, w in zip(mean, whitening, strict=True)]
        return -torch.stack(squared, dim=1) / 2 - self.log_scale

    def score(self, rows: Activations) -> Tensor:
        return self.judge(rows)[1]

    def judge(self, rows: Activations) -> tuple[Tensor, Tensor]:
        leading = Leading(self.class_scores(rows))
        return leading.label, self._unlike(rows, leading.top)

    def training_score(self, rows: Activations) -> Tensor:
        """Each row's score under the Gaussians of all the others, without fitting them again.

        A Gaussian of D dimensions lies close to the n rows it was fitted to: 832 features of 5,400
        images accept 95 % of these and 89 % of new ones.
        """
        return self._unlike(rows, self.left_out(rows).amax(1))

    def _unlike(self, rows: Activations, likelihood: Tensor) -> Tensor:
        return -likelihood

    def left_out(self, rows: Activations) -> Tensor:
        """`class_scores` of training rows with their labels, each left out of its own class's fit.

        By Sherman & Morrison's formula, exact but for terms of 1/n in the shrinkage.
        """
        assert rows.labels is not None
        own = rows.labels[:, None]
        scores = self.class_scores(rows)
        n, log_scale = self.count[rows.labels].to(scores), self.log_scale[rows.labels].to(scores)
        squared = -2 * (scores.gather(1, own).squeeze(1) + log_scale)
        # Without x the mean moves by (x − m) / (n − 1), and the covariance loses x's own part.
        rest = 1 - (1 - self.shrinkage) * squared / (n - 1)
        rest = rest.clamp_min(torch.finfo(rest.dtype).eps)
        grown = n / (n - 1)
        changed = grown * squared / rest + rest.log() + self.mean.shape[1] * grown.log()
        return scores.scatter(1, own, (-changed / 2 - log_scale)[:, None])


class VMDLS(VMDLSb):
    """Scores an image as `VMDLSb` does, weighted by how badly an autoencoder reconstructs it.

    Dinari & Freifeld 2022, section 3.3, https://proceedings.mlr.press/v180/dinari22a.html

    Score w · (l_ref − l), where l is the largest log-likelihood, l_ref the largest of the training
    data plus 1, and w what `Reconstruct` adds to the activations; l above l_ref counts as l_ref.
    The paper's w · l ranks wrongly where l > 0, hence the shift; its code takes the shift from the
    test data, this one does not. In many dimensions l varies by hundreds, so that below the largest
    the shift outweighs what tells known from unknown, and w decides; a lower `reference` helps.
    `part="reconstruction"` is w alone, to see what each of the two knows; `VMDLSb` is the other.

    Args:
        autoencoder: From images to reconstructions, trained on the same training images; on the
            command line, the folder of a run that `openset train DATA --network autoencoder
            --objective reconstruction` wrote: `vmdls:autoencoder=RUN`. A saved model holds it.
        layers: As for `VMDLSb`.
        shrinkage: As for `VMDLSb`.
        layer: The early layer on which image and reconstruction are compared.
        reference: The share of the training images whose l lies below l_ref; images above it score
            0. 1 is the largest plus 1, as in the paper.
        part: "both", or "reconstruction" for w alone; the label is the likeliest class's in both.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2))
        >>> tap, image = Tap(network, ["0"]), torch.rand(40, 1, 8, 8)
        >>> train = tap(image)
        >>> train.labels = torch.arange(40) % 2
        >>> detector = VMDLS(autoencoder=nn.AvgPool2d(3, 1, padding=1), layer="0").fit([train])
        >>> detector(detector.view(tap)(image)).shape
        torch.Size([40])
    """

    name = "vmdls"
    looks_again = True
    l_ref: Tensor

    def __init__(
        self,
        autoencoder: nn.Module,
        layers: Sequence[str] | None = None,
        shrinkage: Amount = 1e-3,
        layer: str = "stage1",
        reference: float = 1.0,
        part: Part = "both",
    ):
        super().__init__(layers, shrinkage)
        if part not in get_args(Part):
            raise ValueError(f"part must be one of {', '.join(get_args(Part))}; got {part!r}")
        if not 0 < reference <= 1:
            raise ValueError(f"reference must lie above 0 and at most at 1; got {reference}")
        need_network(autoencoder)
        self.autoencoder, self.layer = autoencoder, layer
        self.reference = reference
        self.part: Part = part

    def fit(self, batches: Iterable[Activations]) -> Self:
        super().fit(batches)
        likelihood = torch.cat([self.class_scores(known(batch)).amax(1) for batch in batches])
        below = math.ceil(self.reference * len(likelihood))
        self.keep(l_ref=likelihood.sort().values[below - 1] + (self.reference == 1))
        return self

    def _unlike(self, rows: Activations, likelihood: Tensor) -> Tensor:
        if "reconstruction" not in rows.extra:
            raise ValueError(
                "VMDLS needs activations with extra['reconstruction']; extract them with "
                "detector.view(tap) in place of the tap"
            )
        missed = rows.extra["reconstruction"]
        if self.part == "reconstruction":
            return missed
        return missed * (self.l_ref - likelihood).clamp_min(0)

    def view(self, tap: Tap) -> Reconstruct:
        """The tap, with a second look through the autoencoder."""
        return Reconstruct(tap, self.autoencoder, self.layer)


def _whitened(x: Tensor, whitening: Tensor) -> Tensor:
    """Squared lengths `[M]` of rows `[M, D]` under a lower triangular whitening `[D, D]`."""
    parts = [x[:, :high] @ whitening[low:high, :high].T for low, high in blocks(x.shape[1])]
    return torch.cat(parts, dim=1).square().sum(1)


def shrunk(covariance: Tensor, share: float) -> Tensor:
    """(1 − share) · covariance + share · mean variance · identity, for each class `[C, D, D]`."""
    variance = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    identity = torch.eye(covariance.shape[1]).to(covariance)
    return (1 - share) * covariance + share * variance[:, None, None] * identity
