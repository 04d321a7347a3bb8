import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance

from openset.activations import Activations
from openset.detectors import Mahalanobis


def batch(n=300, d=6, k=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, k, (n,), generator=generator)
    mixing = torch.randn(d, d, generator=generator)
    x = torch.randn(n, d, generator=generator) @ mixing + 3 * labels[:, None]
    return Activations(torch.zeros(n, k), {"penultimate": x}, labels)


def reference(train, test):
    x, y = train.features["penultimate"].double().numpy(), train.labels.numpy()
    means = np.stack([x[y == c].mean(0) for c in range(3)])
    covariance = EmpiricalCovariance(assume_centered=True).fit(x - means[y])
    rows = test.features["penultimate"].double().numpy()
    return np.stack([covariance.mahalanobis(rows - m) for m in means], 1)


def test_equals_scikit_learn():
    train, test = batch(), batch(seed=1)
    detector = Mahalanobis(shrinkage=0).fit([train[:100], train[100:]])
    expected = reference(train, test)
    np.testing.assert_allclose(detector.distances(test), expected, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(detector.score(test), expected.min(1), rtol=2e-3, atol=1e-3)


def test_the_scale_of_a_feature_does_not_matter():
    train, test = batch(), batch(seed=1)
    scale = torch.tensor([1e-3, 1, 1e4, 1, 10, 1e-2])
    plain = Mahalanobis(shrinkage=0.1).fit([train]).score(test)
    for part in (train, test):
        part.features["penultimate"] = part.features["penultimate"] * scale + 5
    torch.testing.assert_close(
        Mahalanobis(shrinkage=0.1).fit([train]).score(test), plain, rtol=1e-2, atol=1e-2
    )


def test_constant_and_duplicate_features_change_nothing():
    train, test = batch(), batch(seed=1)
    plain = Mahalanobis(shrinkage=0).fit([train]).score(test)
    for part in (train, test):
        x = part.features["penultimate"]
        part.features["penultimate"] = torch.cat([x, torch.full((len(x), 1), 7.0), x[:, :2]], 1)
    torch.testing.assert_close(
        Mahalanobis(shrinkage=0).fit([train]).score(test), plain, rtol=1e-2, atol=1e-2
    )


def test_a_far_offset_keeps_single_precision():
    train, test = batch(), batch(seed=1)
    plain = Mahalanobis(shrinkage=0).fit([train]).score(test)
    for part in (train, test):
        part.features["penultimate"] = part.features["penultimate"] + 1000
    torch.testing.assert_close(
        Mahalanobis(shrinkage=0).fit([train]).score(test), plain, rtol=2e-2, atol=2e-2
    )


def test_a_class_without_rows_has_no_distance():
    train = batch()
    train.logits = torch.zeros(300, 5)
    detector = Mahalanobis().fit([train])
    assert detector.distances(train).shape == (300, 3)


def test_labels_beyond_the_logits_are_refused():
    train = batch()
    train.logits = torch.zeros(300, 2)
    with pytest.raises(ValueError, match="label 2 is outside 0…1: the network has 2 classes"):
        Mahalanobis().fit([train])
