"""Each detector sees an added class as its own formula says, and the rest as it did before."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from openset.activations import Activations
from openset.detectors import KNN, GeMOS, Mahalanobis, MoreClasses, VMDLSb, build
from openset.detectors.more_classes import OneGaussian

DIM = 3


@pytest.fixture
def train():
    label = torch.arange(300) % 3
    x = torch.randn(300, DIM) @ torch.tensor([[1.0, 0.3, 0], [0, 0.5, 0.2], [0, 0, 2.0]])
    x = x + 8 * torch.eye(DIM)[label]
    return Activations(9 * torch.eye(3)[label], {"penultimate": x}, label)


@pytest.fixture
def few():
    return torch.randn(7, DIM) + torch.tensor([20.0, 20.0, 0.0])


def rows(x):
    return Activations(torch.zeros(len(x), 3), {"penultimate": x})


def within(train):
    """The covariance of the rows around the mean of their classes."""
    x, label = train.features["penultimate"].double(), train.labels
    return sum((x[label == c] - x[label == c].mean(0)).T @ (x[label == c] - x[label == c].mean(0))
               for c in range(3)) / len(x)  # fmt: skip


def test_mahalanobis_takes_one_more_mean_under_the_same_covariance(train, few):
    found = MoreClasses(Mahalanobis(shrinkage=0)).fit([train]).with_class(few, shift=0.5)
    x = torch.randn(20, DIM) * 10
    away = (x - few.mean(0)).double()
    distance = (away @ torch.linalg.inv(within(train)) * away).sum(1) + 0.5
    torch.testing.assert_close(found.surprises(rows(x))[:, 0].double(), distance, rtol=1e-4, atol=0)


def test_knn_takes_more_rows(train, few):
    found = MoreClasses(KNN(k=3)).fit([train]).with_class(few, shift=-0.1)
    x = torch.randn(20, DIM)
    unit, own = (y / y.norm(dim=1, keepdim=True) for y in (x, few))
    expected = torch.cdist(unit, own).amin(1) - 0.1
    torch.testing.assert_close(found.surprises(rows(x))[:, 0], expected, rtol=1e-4, atol=1e-5)


def covariances(detector):
    """The shared part of each class's covariance, from the factors of its inverse."""
    if isinstance(detector, VMDLSb):
        return torch.stack(
            [torch.linalg.inv(w.double().T @ w.double()) for w in detector.whitening]
        )
    density, each = detector.density, []
    for weight, factor in zip(density.weight.double().exp(), density.factor.double(), strict=True):
        factor = factor.expand(len(weight), *factor.shape[1:])
        full = [torch.linalg.inv(f @ f.T) if f.dim() == 2 else (1 / f**2).diag() for f in factor]
        each.append(sum(share * one for share, one in zip(weight, full, strict=True)))
    return torch.stack(each)


@pytest.mark.parametrize(
    "name",
    [
        "vmdls-b:layers=penultimate",
        *(
            f"gemos:layers=penultimate,components=2,covariance={c}"
            for c in ("full", "diag", "tied")
        ),
    ],
)
def test_gaussians_are_drawn_towards_those_of_the_other_classes(train, few, name):
    detector = build(name).fit([train])
    found = MoreClasses(detector).with_class(few, shift=0.0)
    x, y = torch.randn(20, DIM) * 5, few
    volume = 0.0
    if isinstance(detector, GeMOS):
        standardise = detector.density.standardise
        x, y, volume = standardise(x), standardise(y), float(standardise.scale.log().sum())
    usual = covariances(detector).mean(0).numpy()
    own = np.cov(y.numpy().T, bias=True)
    covariance = (len(y) * own + DIM * usual) / (len(y) + DIM)
    expected = volume - multivariate_normal(y.mean(0).numpy(), covariance).logpdf(x.numpy())
    given = torch.randn(20, DIM)
    torch.manual_seed(0)
    surprise = OneGaussian().fit(detector, few).surprise(detector, _unstandardised(detector, x))
    np.testing.assert_allclose(surprise, expected, rtol=1e-3)
    assert found.surprises(rows(given)).shape == (20, 1)


def _unstandardised(detector, x):
    if isinstance(detector, VMDLSb):
        return x
    standardise = detector.density.standardise
    return x * standardise.scale + standardise.centre


@pytest.mark.parametrize(
    "name", ["mahalanobis", "knn:k=3", "vmdls-b", "gemos:components=1,layers=penultimate"]
)
def test_only_images_that_the_class_finds_less_strange_change(train, few, name):
    before = build(name).fit([train])
    found = MoreClasses(before).with_class(few, shift=0.0)
    mixed = Activations(
        torch.cat([train.logits, torch.zeros(7, 3)]),
        {"penultimate": torch.cat([train.features["penultimate"], few + 0.01])},
    )
    label, score = found.answer(mixed)
    own = found.surprises(mixed)[:, 0] < before(mixed)
    assert own[-7:].all()
    assert own[:300].float().mean() < 0.1
    assert torch.equal(label == 3, own)
    assert torch.equal(label[~own], before.answer(mixed)[0][~own])
    assert torch.equal(score[~own], before(mixed)[~own])
    assert (score[own] < before(mixed)[own]).all()
    twice = found.with_class(few - 40, shift=0.0)
    assert twice.class_scores(rows(few - 40)).argmax(1).eq(4).all()
    assert twice.class_scores(rows(few)).argmax(1).eq(3).all()
    assert twice.without_last().added == 1
    assert found.without_last() is before


@pytest.mark.parametrize(
    ("detector", "why"),
    [
        ("energy", "energy cannot learn one more class"),
        ("relative-mahalanobis", "relative-mahalanobis cannot learn one more class"),
        ("gemos:density=pca", "gemos cannot learn one more class"),
        ("gemos:calibration=quantile", "calibration=quantile cannot learn"),
    ],
)
def test_others_say_that_they_cannot(detector, why):
    with pytest.raises(ValueError, match=why):
        MoreClasses(build(detector))
