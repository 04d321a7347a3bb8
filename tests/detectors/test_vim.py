import numpy as np
import pytest
import torch
from numpy.linalg import norm, pinv
from scipy.special import logsumexp
from sklearn.covariance import EmpiricalCovariance

from openset.activations import Activations
from openset.detectors import ViM
from openset.detectors.vim import principal_dimension


def batch(n=300, seed=0):
    mixing = torch.randn(10, 10, generator=torch.Generator().manual_seed(9))
    weight, bias = mixing[:4] + 1, mixing[5, :4]
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(n, 10, generator=generator) @ mixing).relu()
    logits = x @ weight.T + bias
    return Activations(logits, {"penultimate": x}, logits.argmax(1), head=(weight, bias))


def published(train, test, dimension):
    """The authors' code, https://github.com/haoqiwang/vim, with the names of the paper."""
    w, b = (x.double().numpy() for x in train.head)
    u = -pinv(w) @ b
    x = train.features["penultimate"].double().numpy()
    covariance = EmpiricalCovariance(assume_centered=True).fit(x - u)
    values, vectors = np.linalg.eig(covariance.covariance_)
    null = np.ascontiguousarray(vectors.T[np.argsort(values * -1)[dimension:]].T)
    alpha = train.logits.double().numpy().max(1).mean() / norm((x - u) @ null, axis=-1).mean()
    rows = test.features["penultimate"].double().numpy()
    energy = logsumexp(test.logits.double().numpy(), axis=-1)
    return norm((rows - u) @ null, axis=-1) * alpha - energy


@pytest.mark.parametrize("dimension", [None, 3])
def test_equals_the_published_code(dimension):
    train, test = batch(), batch(40, seed=1)
    detector = ViM(dimension).fit([train[:100], train[100:]])
    expected = published(train, test, dimension or 5)
    np.testing.assert_allclose(detector.score(test), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("features", "principal"), [(2048, 1000), (2047, 512), (768, 512), (767, 383), (64, 32)]
)
def test_dimension_follows_the_papers_rule(features, principal):
    assert principal_dimension(features, None) == principal


def test_a_dimension_that_leaves_nothing_over_is_refused():
    with pytest.raises(ValueError, match=r"0…9 for 10 features; got 10"):
        ViM(10).fit([batch()])


def test_features_within_the_principal_directions_are_refused():
    train = batch()
    train.features["penultimate"] = torch.zeros(300, 10)
    train.head = train.head[0], torch.zeros(4)
    with pytest.raises(ValueError, match="no training feature leaves the 5 principal directions"):
        ViM().fit([train])


def test_a_network_without_linear_head_is_told_what_to_do():
    train = batch()
    train.head = None
    with pytest.raises(ValueError, match=r"vim applies .* name it: Tap\(network, head=…\)"):
        ViM().fit([train])
