"""LocalOutlierFactor against scikit-learn's own scores on the same rows."""

import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor as Reference

from openset.densities import LocalOutlierFactor, local_outlier_factor


def reference(x, other, neighbours):
    neighbours = min(neighbours, len(x) - 1)
    fitted = Reference(n_neighbors=neighbours, novelty=True).fit(x.double().numpy())
    return -torch.from_numpy(fitted.score_samples(other.double().numpy()))


@pytest.mark.parametrize("dim", [2, 40])
@pytest.mark.parametrize("neighbours", [1, 20])
def test_agrees_with_scikit_learn(dim, neighbours):
    x = torch.randn(300, dim) + 50
    other = 2 * torch.randn(100, dim) + 50
    density = LocalOutlierFactor(neighbours).fit([x])
    expected = reference(x, other, neighbours)
    torch.testing.assert_close(density(other).double(), expected, rtol=1e-5, atol=0)


def test_duplicates():
    """More copies than neighbours: distances of zero, whose density only a constant bounds."""
    x = torch.cat([torch.randn(50, 30), torch.randn(1, 30).repeat(30, 1)])
    other = torch.cat([x[-1:], x[-1:] + 0.5])
    expected = reference(x, other, 10)
    density = LocalOutlierFactor(10).fit([x])
    torch.testing.assert_close(density(other).double(), expected, rtol=1e-4, atol=0)


def test_classes_with_fewer_rows_than_neighbours():
    x, labels = torch.randn(60, 3), torch.tensor([0] * 55 + [1] * 5)
    density = LocalOutlierFactor(20).fit_classes([(x, labels)], 2)
    other = torch.randn(20, 3)
    for c in range(2):
        expected = reference(x[labels == c], other, 20)
        torch.testing.assert_close(density.surprise(other, c).double(), expected, rtol=1e-5, atol=0)


def test_rows_next_to_a_training_row_and_far_ones_together(monkeypatch):
    """Of one row some neighbours are so close that their distances are taken again, some not."""
    monkeypatch.setattr(local_outlier_factor, "PAIRS", 7)
    x = torch.cat([torch.randn(40, 30), torch.randn(1, 30) + 0.01 * torch.randn(10, 30)])
    other = torch.cat([x[-5:] + 1e-3, 4 * torch.randn(20, 30)])
    density = LocalOutlierFactor(15).fit([x])
    torch.testing.assert_close(density(other).double(), reference(x, other, 15), rtol=1e-5, atol=0)
