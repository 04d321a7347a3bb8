"""Speed of GaussianMixture's fit against scikit-learn's, and both held-out likelihoods, in one run.

    OMP_NUM_THREADS=2 python speed/mixture.py            # the size of MNIST's features
    OMP_NUM_THREADS=2 python speed/mixture.py --many     # 1,000 classes, diagonal
    python speed/mixture.py --features mnist.safetensors # of speed/features.py

Both fit the same standardised features with the same variance added to each, in place of the
shrinkage, which scikit-learn has not: ours in float32, scikit-learn's in float64. A fifth of the
rows is held out.
"""

import argparse
import resource
import time
import warnings

import torch
from safetensors.torch import load_file
from sklearn.mixture import GaussianMixture as Reference

from openset.densities import GaussianMixture


def random_features(classes: int, rows: int, dim: int, clusters: int = 8):
    """Clusters per class with correlated, skewed features, as pooled activations are."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(dim // 4, dim, generator=generator) / dim**0.5
    labels = torch.arange(classes).repeat_interleave(rows)
    cluster = torch.randint(clusters, (len(labels),), generator=generator) + clusters * labels
    centres = 2 * torch.randn(classes * clusters, dim // 4, generator=generator)
    hidden = centres[cluster] + torch.randn(len(labels), dim // 4, generator=generator)
    x = hidden @ mix + 0.3 * torch.randn(len(labels), dim, generator=generator)
    return x.relu() + 0.1 * x, labels


def standardised(x):
    centre, scale = x.double().mean(0), x.double().std(0, correction=0)
    return ((x - centre) / torch.where(scale > 0, scale, 1.0)).float()


def timed(fit, rows):
    """Runs a fit; returns its wall time and its processor time over all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    fit(rows)
    return torch.tensor([time.perf_counter() - wall, time.process_time() - cpu])


def compare(x, labels, components: int, floor: float, classes: int) -> None:
    """Fits class by class, the two in turn, so that other load on the machine meets both."""
    mine, theirs = torch.zeros(2), torch.zeros(2)
    print(f"{classes} classes, {x.shape[1]} features, {components} components")
    for c in range(classes):
        rows = standardised(x[labels == c])
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
        rows, other = rows[len(rows) // 5 :], rows[: len(rows) // 5]
        double = rows.double().numpy()
        ours = GaussianMixture(components, shrinkage=0, jitter=floor)
        reference = Reference(components, reg_covar=floor, random_state=0)
        mine += timed(ours.fit, [rows])
        theirs += timed(reference.fit, double)
        for what, some in {"learned": rows, "held-out": other}.items():
            expected, got = reference.score(some.double().numpy()), -ours(some).double().mean()
            print(
                f"class {c}, {len(some)} {what} rows: mean log-likelihood {got:.3f}, scikit-learn "
                f"{expected:.3f} ({got - expected:+.3f}; {reference.n_iter_} steps)",
                flush=True,
            )
    ratio = theirs / mine
    print(
        f"fit {mine[0]:.1f} s, scikit-learn {theirs[0]:.1f} s: {ratio[0]:.1f} times faster "
        f"(processor time {mine[1]:.1f} s, {theirs[1]:.1f} s: {ratio[1]:.1f})"
    )


def many(classes: int = 1000, rows: int = 1000, dim: int = 64) -> None:
    x, labels = random_features(classes, rows, dim)
    density = GaussianMixture(8, "diag", memory=2)
    wall, cpu = timed(lambda batches: density.fit_classes(batches, classes), [(x, labels)])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{classes} classes × {rows} rows × {dim}: {wall:.1f} s (processor time {cpu:.1f} s), "
        f"peak {peak:.2f} GiB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", help="file of speed/features.py")
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--components", type=int, default=8)
    parser.add_argument("--floor", type=float, default=0.02)
    parser.add_argument("--many", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.many:
        many()
    else:
        if given.features:
            file = load_file(given.features)
            x, labels = file["features"].float(), file["labels"]
        else:
            x, labels = random_features(10, 6000, 490)
        compare(x, labels, given.components, given.floor, given.classes)
