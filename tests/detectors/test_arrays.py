"""Detectors on stored embeddings: plain arrays give what the same rows from a network give."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors

from openset import Activations, Threshold
from openset.detectors import (
    BIN,
    BINC,
    DETECTORS,
    GEN,
    KNN,
    ODIN,
    Energy,
    Entropy,
    Fusion,
    GeMOS,
    Mahalanobis,
    MaxLogit,
    MaxSoftmax,
    OpenMax,
    ReAct,
    RelativeMahalanobis,
    Temperature,
    ViM,
    VMDLSb,
)  # fmt: skip

ON_FEATURES = (
    Mahalanobis, RelativeMahalanobis, KNN, VMDLSb,
    lambda: Fusion((Mahalanobis(), KNN())), lambda: Mahalanobis(layers=None),
)  # fmt: skip

ON_LOGITS = (
    Energy, Entropy, MaxLogit, MaxSoftmax, Temperature, GEN, BIN, OpenMax, GeMOS,
    lambda: ODIN(epsilon=0), lambda: Fusion((Energy(), GeMOS())),
)  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    """Features, labels and logits of 240 rows of four classes."""
    random = np.random.default_rng(0)
    y = np.arange(240) % 4
    x = random.normal(size=(240, 5)) + 3 * np.eye(5)[y]
    return x, y, 2 * x[:, :4] + random.normal(size=(240, 4))


@pytest.mark.parametrize("make", [*ON_FEATURES, *ON_LOGITS], ids=lambda make: repr(make()))
def test_arrays_give_what_the_same_rows_from_a_network_give(rows, make):
    x, y, logits = rows
    batch = Activations(
        torch.from_numpy(logits), {"penultimate": torch.from_numpy(x)}, torch.from_numpy(y)
    )
    expected = make().fit([batch]).adjust([batch])(batch)
    detector = make().fit(x, y, logits=logits).adjust(x, y, logits=logits)
    np.testing.assert_array_equal(detector.score_samples(x, logits=logits), expected.numpy())
    ours = detector.score_samples(torch.from_numpy(x), logits=torch.from_numpy(logits))
    assert torch.equal(ours, expected)
    named = make().fit({"penultimate": x}, y.tolist(), logits=logits)
    named.adjust({"penultimate": x}, y, logits=logits)
    assert torch.equal(named(batch), expected)


@pytest.mark.parametrize("make", ON_FEATURES, ids=lambda make: repr(make()))
def test_features_alone_suffice_where_no_logits_are_read(rows, make):
    x, y, logits = rows
    detector = make().fit(x, y).adjust(x, y)
    scores = detector.score_samples(x)
    assert np.median(detector.score_samples(-10 * x)) > np.quantile(scores, 0.9)
    if detector.layers == ("penultimate",):
        with_logits = make().fit(x, y, logits=logits).adjust(x, y, logits=logits)
        np.testing.assert_array_equal(with_logits.score_samples(x, logits=logits), scores)


def test_distances_are_those_of_scikit_learn(rows):
    x = rows[0]
    ours = Mahalanobis(shrinkage=0).fit(x).score_samples(x)
    np.testing.assert_allclose(ours, EmpiricalCovariance().fit(x).mahalanobis(x), rtol=1e-5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    neighbours = NearestNeighbors(n_neighbors=7).fit(unit)
    distance, _ = neighbours.kneighbors(unit)
    np.testing.assert_allclose(KNN(k=7).fit(x).score_samples(x), distance[:, -1], atol=1e-6)


def test_a_threshold_comes_from_plain_scores(rows):
    x, y, _ = rows
    detector = Mahalanobis().fit(x[::2], y[::2])
    scores = detector.score_samples(x[1::2])
    threshold = Threshold.conformal(scores, accept=0.9)
    assert threshold.values == Threshold.conformal(torch.from_numpy(scores), accept=0.9).values
    assert np.mean(scores <= threshold.values[0]) >= 0.9


@pytest.mark.parametrize(
    ("make", "named"),
    [
        *((make, "reads logits") for make in (Energy, GEN, OpenMax, GeMOS, Temperature)),
        (ReAct, "last linear layer"),
        (ViM, "last linear layer"),
        (ODIN, "a second time"),
        (lambda: Mahalanobis(epsilon=0.01), "a second time"),
        (BINC, "unknown layer 'binary'"),
        (lambda: Mahalanobis(layers=("stage1",)), "unknown layer 'stage1'"),
    ],
)
def test_what_arrays_do_not_hold_is_refused_in_one_sentence(rows, make, named):
    x, y, _ = rows
    with pytest.raises(ValueError, match=named):
        make().fit(x, y).score_samples(x)


@pytest.mark.parametrize(
    ("x", "y", "logits", "named"),
    [
        (np.zeros(4), None, None, r"features penultimate have shape \(4,\)"),
        (np.zeros((4, 2)), [0, 1], None, r"\[2, 4\] rows"),
        (np.zeros((4, 2)), ["a", "b", "a", "b"], None, "labels are <U1.*return_inverse"),
        (np.zeros((4, 2)), torch.rand(4), None, "labels are torch.float32"),
        (np.zeros((4, 2)), None, np.zeros((4, 3)), "without labels"),
        (np.zeros((4, 2)), [0, 3, 0, 0], np.zeros((4, 3)), "label 3 is outside"),
        (np.full((4, 2), np.nan), [0, 1, 0, 1], None, "not finite|NaN"),
        (None, [0, 1], None, "neither features nor logits"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(x, y, logits, named):
    with pytest.raises(ValueError, match=named):
        Mahalanobis().fit(x, y, logits=logits)


CLONED = sorted(DETECTORS.keys() - {"pytorch-ood", "vmdls", "autoencoder", "synthcp"})
"""Detectors that need nothing; a copy would not hold the networks of the others."""


@pytest.mark.parametrize("name", CLONED)
def test_scikit_learn_clones_every_detector(name):
    detector = DETECTORS[name]()
    copy = clone(detector)
    assert copy is not detector
    assert repr(copy) == repr(detector)


def test_settings_are_read_and_changed_as_in_scikit_learn(rows):
    x, y, _ = rows
    detector = KNN(k=3).fit(x, y)
    assert detector.get_params()["k"] == 3
    assert list(Fusion((detector, Energy())).buffers())
    assert not list(clone(Fusion((detector, Energy()))).buffers())
    detector.set_params(k=5)
    assert not list(detector.buffers())
    expected = KNN(k=5).fit(x, y).score_samples(x)
    np.testing.assert_array_equal(detector.fit(x, y).score_samples(x), expected)
    with pytest.raises(TypeError, match="neighbours"):
        detector.set_params(neighbours=3)
