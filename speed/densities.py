"""Speed of the densities' scores against scikit-learn's `score_samples`, in one run.

    OMP_NUM_THREADS=2 python speed/densities.py [--features mnist.safetensors]

Both score the same rows under the same fit; ours in float32 tensors, scikit-learn's from float64.
The smallest of several alternating runs counts; "cpu" is processor time over all threads.
"""

import argparse
import time

import torch
from mixture import random_features
from safetensors.torch import load_file
from sklearn.decomposition import PCA as ReferencePCA
from sklearn.ensemble import IsolationForest as ReferenceForest
from sklearn.mixture import GaussianMixture as ReferenceMixture
from sklearn.neighbors import LocalOutlierFactor as ReferenceFactor
from sklearn.svm import OneClassSVM as ReferenceSVM

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


def seconds(run, repeats: int):
    """Smallest wall and processor time of a run."""
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [min(column) for column in zip(*times, strict=True)]


def compare(name: str, x, other, repeats: int = 3) -> None:
    ours, reference = PAIRS[name]
    ours.fit([x])
    rows, others = x.double().numpy(), other.double().numpy()
    reference.fit(rows)
    expected = -torch.from_numpy(reference.score_samples(others))
    error = ((ours(other).double() - expected).abs() / expected.abs()).quantile(0.95)
    mine = seconds(lambda: ours(other), repeats)
    theirs = seconds(lambda: reference.score_samples(others), repeats)
    print(
        f"{name:22} {1e6 * mine[0] / len(other):8.1f} µs a row, scikit-learn "
        f"{1e6 * theirs[0] / len(other):8.1f}: {theirs[0] / mine[0]:6.1f} times faster "
        f"(cpu {theirs[1] / mine[1]:.1f}), relative difference {error:.0e}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", help="safetensors file with features and labels")
    parser.add_argument("--rows", type=int, default=5000, help="rows fitted; 2,000 are scored")
    parser.add_argument("--only", choices=list(PAIRS))
    given = parser.parse_args()
    if given.features:
        file = load_file(given.features)
        x, labels = file["features"].float(), file["labels"]
        x, other = x[labels == 0], x[labels == 1]
    else:
        x, labels = random_features(2, 6000, 490)
        x, other = x[labels == 0], x[labels == 1]
    x, other = x[: given.rows], torch.cat([x[-1000:], other[:1000]])
    print(f"{len(x)} rows × {x.shape[1]} features, {len(other)} scored")
    with torch.inference_mode():
        for name in [given.only] if given.only else PAIRS:
            compare(name, x, other)
