import numpy as np
import torch
from sklearn.covariance import EmpiricalCovariance

from openset.activations import Activations
from openset.detectors import Mahalanobis, RelativeMahalanobis


def batch(n=300, d=6, k=3, seed=0):
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, k, (n,), generator=generator)
    x = torch.randn(n, d, generator=generator) @ mixing + 3 * labels[:, None]
    return Activations(torch.zeros(n, k), {"penultimate": x}, labels)


def test_equals_the_difference_of_two_scikit_learn_distances():
    train, test = batch(), batch(seed=1)
    x, y = train.features["penultimate"].double().numpy(), train.labels.numpy()
    rows = test.features["penultimate"].double().numpy()
    means = np.stack([x[y == c].mean(0) for c in range(3)])
    within = EmpiricalCovariance(assume_centered=True).fit(x - means[y])
    nearest = np.stack([within.mahalanobis(rows - m) for m in means], 1).min(1)
    expected = nearest - EmpiricalCovariance().fit(x).mahalanobis(rows)
    detector = RelativeMahalanobis(shrinkage=0).fit([train[:100], train[100:]])
    np.testing.assert_allclose(detector.score(test), expected, rtol=1e-3, atol=5e-3)


def test_what_varies_alike_in_all_classes_drops_out():
    def change(detector):
        plain = detector.fit([train]).score(test)
        return (detector.fit([wide_train]).score(wide_test) - plain).abs().mean()

    train, test = batch(), batch(seed=1)
    wide_train, wide_test = (
        Activations(
            part.logits, {"penultimate": torch.cat([part.stacked(), noise], 1)}, part.labels
        )
        for part, noise in ((train, torch.randn(300, 1)), (test, torch.randn(300, 1)))
    )
    assert change(RelativeMahalanobis()) < 0.4
    assert change(Mahalanobis()) > 0.7
