"""PCA against scikit-learn's."""

import pytest
import torch
from sklearn.decomposition import PCA as Reference

from openset.densities import PCA


@pytest.mark.parametrize("components", [1, 3, 5])
def test_agrees_with_scikit_learn(components):
    x = torch.randn(200, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 4
    density = PCA(components).fit([x[:50], x[50:]])
    expected = Reference(components, svd_solver="full").fit(x.numpy()).score_samples(x.numpy())
    torch.testing.assert_close(density(x), -torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
    single = PCA(components).fit([x.float()])(x.float())
    torch.testing.assert_close(single.double(), -torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


def test_rows_of_lower_rank_are_finite():
    x = torch.randn(50, 2) @ torch.randn(2, 8)
    density = PCA(4).fit([x])
    assert density(x).isfinite().all()
    assert density(x + torch.randn(50, 8)).min() > density(x).max()


def test_a_class_with_fewer_rows_than_components_is_named():
    x, labels = torch.randn(45, 12), torch.tensor([0] * 40 + [1] * 5)
    with pytest.raises(ValueError, match=r"class.* 1.*fewer components"):
        PCA(8).fit_classes([(x, labels)], classes=2)


def test_components_must_be_below_the_features():
    with pytest.raises(ValueError, match="below the 4 features"):
        PCA(4).fit([torch.randn(20, 4)])
