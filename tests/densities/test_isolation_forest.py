"""IsolationForest against scikit-learn's own scores on the same trees."""

import pytest
import torch
from sklearn.ensemble import IsolationForest as Reference

from openset.densities import IsolationForest


@pytest.mark.parametrize(("rows", "samples"), [(2, 256), (40, 256), (600, 256), (600, 33)])
def test_agrees_with_scikit_learn(rows, samples):
    x = torch.randn(rows, 5).round(decimals=1)
    other = torch.cat([x, 3 * torch.randn(200, 5)])
    reference = Reference(n_estimators=30, max_samples=min(samples, rows), random_state=0).fit(
        x.numpy()
    )
    density = IsolationForest(trees=30, samples=samples).fit([x])
    expected = -torch.from_numpy(reference.score_samples(other.numpy()))
    torch.testing.assert_close(density(other).double(), expected, rtol=1e-5, atol=0)


def test_a_value_on_a_threshold_goes_the_same_way():
    """Thresholds are float64 and midway; rounded up to float32 they would let the value pass."""
    low = torch.tensor(1.0)
    x = torch.stack([low, torch.nextafter(low, torch.tensor(2.0))]).repeat(8)[:, None]
    reference = Reference(n_estimators=20, max_samples=16, random_state=0).fit(x.numpy())
    density = IsolationForest(trees=20, samples=16).fit([x])
    expected = -torch.from_numpy(reference.score_samples(x.numpy()))
    torch.testing.assert_close(density(x).double(), expected, rtol=1e-5, atol=0)


def test_identical_rows():
    x = torch.ones(10, 3)
    reference = Reference(n_estimators=10, max_samples=10, random_state=0).fit(x.numpy())
    expected = -torch.from_numpy(reference.score_samples(x.numpy()))
    density = IsolationForest(trees=10).fit([x])
    torch.testing.assert_close(density(x).double(), expected, rtol=1e-5, atol=0)
