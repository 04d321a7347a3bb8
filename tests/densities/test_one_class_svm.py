"""OneClassSVM against scikit-learn's own scores on the same rows."""

import pytest
import torch
from sklearn.svm import OneClassSVM as Reference

from openset.densities import OneClassSVM


@pytest.mark.parametrize("settings", [{}, {"nu": 0.1, "gamma": 0.3}])
def test_agrees_with_scikit_learn(settings):
    x = torch.randn(300, 5, dtype=torch.float64) + 20
    other = 2 * torch.randn(100, 5, dtype=torch.float64) + 20
    expected = -torch.from_numpy(Reference(**settings).fit(x.numpy()).score_samples(other.numpy()))
    density = OneClassSVM(**settings).fit([x])
    torch.testing.assert_close(density(other), expected, rtol=1e-7, atol=1e-9)
    single = OneClassSVM(**settings).fit([x.float()])(other.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_sample_of_many_rows():
    x = torch.randn(500, 2)
    density = OneClassSVM(max_rows=100).fit([x])
    assert density.support.shape[1] <= 100
    assert density(x + 5).median() > density(x).median()


def test_scores_in_chunks():
    x = torch.randn(9000, 2)
    density = OneClassSVM(max_rows=50).fit([x])
    torch.testing.assert_close(density(x)[5000:5010], density(x[5000:5010]))
