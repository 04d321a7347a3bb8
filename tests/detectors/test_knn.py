import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from openset.activations import UNKNOWN, Activations
from openset.detectors import KNN, knn


def batch(n=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator) + torch.arange(6)
    return Activations(torch.zeros(n, 3), {"penultimate": x}, torch.arange(n) % 3)


def test_equals_scikit_learn(monkeypatch):
    train, test = batch(), batch(50, seed=1)
    directions = [x / x.norm(dim=1, keepdim=True) for x in (train.stacked(), test.stacked())]
    neighbours = NearestNeighbors(n_neighbors=7).fit(directions[0].double().numpy())
    expected = neighbours.kneighbors(directions[1].double().numpy())[0][:, -1]
    detector = KNN(k=7).fit([train[:90], train[90:]])
    np.testing.assert_allclose(detector.score(test), expected, rtol=1e-4)
    monkeypatch.setattr(knn, "CHUNK", 1000)
    np.testing.assert_allclose(detector.score(test), expected, rtol=1e-4)


def test_length_does_not_matter():
    detector, test = KNN().fit([batch()]), batch(50, seed=1)
    expected = detector.score(test)
    test.features["penultimate"] = test.features["penultimate"] * 100
    torch.testing.assert_close(detector.score(test), expected)


def test_keeps_a_seeded_sample_of_known_rows():
    train = batch()
    train.labels[:100] = UNKNOWN
    kept = KNN(k=1, max_rows=20).fit([train]).rows
    assert kept.shape == (20, 6)
    known = torch.nn.functional.normalize(train[100:].stacked(), dim=1)
    assert ((kept[:, None] - known).abs().sum(2).min(1).values < 1e-6).all()
    assert torch.equal(kept, KNN(k=1, max_rows=20).fit([train[:150], train[150:]]).rows)
    assert not torch.equal(kept, KNN(k=1, max_rows=20, seed=1).fit([train]).rows)


def test_more_neighbours_than_rows_are_refused():
    with pytest.raises(ValueError, match="k=50 neighbours need as many training rows; got 30"):
        KNN().fit([batch(30)])
