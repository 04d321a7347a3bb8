"""Speed of the densities' fits and scores against scikit-learn's, in one run, and their difference.

    OMP_NUM_THREADS=1 python speed/densities.py [--features mnist.safetensors]

Both fit the same rows with the same settings and score rows that they have learned, rows held out
and rows of another class; ours in float32 tensors, scikit-learn's in float64. The mixture of
scikit-learn takes over our fit (`mixture.py` compares the fits). The smallest of several turns
counts, in processor time, so that others may be at work beside it.
"""

import argparse

import torch
from mixture import random_features
from safetensors.torch import load_file
from sklearn.decomposition import PCA as ReferencePCA
from sklearn.ensemble import IsolationForest as ReferenceForest
from sklearn.mixture import GaussianMixture as ReferenceMixture
from sklearn.neighbors import LocalOutlierFactor as ReferenceFactor
from sklearn.svm import OneClassSVM as ReferenceSVM
from turns import seconds

from openset.densities import PCA, GaussianMixture, IsolationForest, LocalOutlierFactor, OneClassSVM

PAIRS = {
    "gaussian-mixture": (
        GaussianMixture(8, "diag", shrinkage=0),
        ReferenceMixture(8, covariance_type="diag", random_state=0),
    ),
    "pca": (PCA(8), ReferencePCA(8, svd_solver="full")),
    "one-class-svm": (OneClassSVM(), ReferenceSVM()),
    "isolation-forest": (IsolationForest(), ReferenceForest(max_samples=256, random_state=0)),
    "local-outlier-factor": (LocalOutlierFactor(), ReferenceFactor(novelty=True)),
}


def take_over(reference: ReferenceMixture, ours: GaussianMixture) -> None:
    """Gives scikit-learn's mixture the parameters of ours, in the original units."""
    centre, scale = ours.standardise.centre.double(), ours.standardise.scale.double()
    reference.weights_ = ours.weight[0].double().exp().numpy()
    reference.means_ = (ours.mean[0].double() * scale + centre).numpy()
    reference.precisions_cholesky_ = (ours.factor[0].double() / scale).numpy()
    reference.covariances_ = reference.precisions_cholesky_**-2.0


def compare(name: str, x, held_out, other) -> None:
    ours, reference = PAIRS[name]
    double = x.double().numpy()
    if isinstance(reference, ReferenceMixture):
        ours.fit([x])
        take_over(reference, ours)
    else:
        mine, theirs = seconds(lambda: ours.fit([x]), lambda: reference.fit(double), repeats=1)
        print(f"{name:22} fit {theirs / mine:6.1f} times faster")
    for what, some in {"learned": x[: len(held_out)], "held-out": held_out, "other": other}.items():
        expected = -torch.from_numpy(reference.score_samples(some.double().numpy()))
        error = ((ours(some).double() - expected).abs() / expected.abs()).quantile(0.95)
        print(f"{name:22} {what} rows: relative difference {error:.0e}")
    rows = torch.cat([held_out, other])
    double = rows.double().numpy()
    mine, theirs = seconds(lambda: ours(rows), lambda: reference.score_samples(double), repeats=10)
    print(
        f"{name:22} score {1e6 * mine / len(rows):.1f} µs a row, scikit-learn "
        f"{1e6 * theirs / len(rows):.1f}: {theirs / mine:.1f} times faster",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", help="file of speed/features.py")
    parser.add_argument(
        "--rows", type=int, default=5000, help="rows fitted; the next 1,000 are held out"
    )
    parser.add_argument("--only", choices=list(PAIRS))
    given = parser.parse_args()
    if given.features:
        file = load_file(given.features)
        x, labels = file["features"].float(), file["labels"]
        x, other = x[labels == 0], x[labels == 1]
    else:
        x, labels = random_features(2, 6000, 490)
        x, other = x[labels == 0], x[labels == 1]
    x, held_out, other = x[: given.rows], x[given.rows :][:1000], other[:1000]
    print(f"{len(x)} rows × {x.shape[1]} features, {len(held_out) + len(other)} scored")
    with torch.inference_mode():
        for name in [given.only] if given.only else PAIRS:
            compare(name, x, held_out, other)
