"""The CGDL detector: Gaussians of the right, the paper's box, and the ranks of both parts."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from openset.activations import Activations
from openset.detectors import CGDL


def seen(rows=300, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    spread = torch.randn(dim, dim, generator=generator)
    x = torch.randn(rows, dim, generator=generator) @ spread + 4 * labels[:, None]
    logits = torch.eye(3)[labels] + 0.4 * torch.randn(rows, 3, generator=generator)
    error = torch.rand(rows, 1, generator=generator)
    return Activations(logits, {"mean": x, "error": error}, labels)


def of_the_right(data, c):
    right = (data.logits.argmax(1) == data.labels) & (data.labels == c)
    return data.features["mean"][right].double().numpy()


def test_the_latent_part_is_the_density_of_the_right_training_images():
    train, test = seen(), seen(50, seed=1)
    x, table = test.features["mean"].numpy(), []
    for c in range(3):
        own = of_the_right(train, c)
        assert 50 < len(own) < 100
        covariance = np.cov(own.T, bias=True)
        covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / 4 * np.eye(4)
        table.append(multivariate_normal(own.mean(0), covariance).logpdf(x))
    score = CGDL(rule="latent", shrinkage=0.1).fit([train[:77], train[77:]])(test)
    np.testing.assert_allclose(score, -np.max(table, axis=0), rtol=1e-4, atol=1e-4)


def test_the_published_rule_is_the_papers_box_and_two_deviations_of_the_error():
    train, test = seen(), seen(80, seed=1)
    test.features["mean"][::2] *= 3
    detector = CGDL(rule="published").fit([train[:77], train[77:]])
    x, inside = test.features["mean"].double().numpy(), np.zeros((80, 3))
    for c in range(3):
        own = of_the_right(train, c)
        away = np.abs(x - own.mean(0)) / own.std(0)
        inside[:, c] = 1 - np.prod(norm.cdf(away) - norm.cdf(-away), axis=1)
    np.testing.assert_allclose(detector.inside(test), inside, atol=1e-5)
    error = train.features["error"].squeeze(1)
    limit = error.mean() + 2 * error.std(unbiased=False)
    outside = torch.from_numpy((inside < 0.5).all(1))
    unknown = outside | (test.features["error"].squeeze(1) > limit)
    assert 0 < int(outside.sum()) < 80
    assert (detector(test) > 0).equal(unknown)


def test_the_papers_box_lets_wide_clouds_in():
    """In 32 dimensions some coordinate is always near its mean."""
    torch.manual_seed(0)
    labels = torch.arange(4000) % 2
    at = 6 * torch.eye(2, 32)[labels]
    train = Activations(at[:, :2], {"mean": at + torch.randn(4000, 32)}, labels)
    train.features["error"] = torch.rand(4000, 1)
    detector = CGDL(rule="published").fit([train])
    for times, rejected in ((3, 0.0), (10, 0.067)):
        far = detector.gaussians.mean[labels] + times * torch.randn(4000, 32)
        rows = Activations(train.logits, {"mean": far})
        share = (detector.inside(rows).amax(1) < 0.5).float().mean().item()
        assert share == pytest.approx(rejected, abs=0.03)


def test_ranks_take_the_rarer_of_both_parts():
    train, held_out, test = seen(), seen(200, seed=1), seen(60, seed=2)
    both = CGDL().fit([train]).adjust([held_out])
    surprise = []
    for rule in ("latent", "reconstruction"):
        alone = CGDL(rule=rule).fit([train])
        known, score = alone(held_out), alone(test)
        at_least = (known >= score[:, None]).sum(1)
        # Between two held-out images p lies between theirs.
        low, high = ((1 + at_least + more) / 201 for more in (0, 1))
        surprise.append((-high.log(), -low.log()))
    least, most = (torch.maximum(*bounds) for bounds in zip(*surprise, strict=True))
    score = both(test)
    assert (score >= least - 1e-4).all()
    # Beyond the last held-out image ranks go on.
    assert (score <= most + 1e-4)[most < 5.3].all()
    assert (most < 5.3).float().mean() > 0.5


def test_a_class_of_which_none_is_right_learns_from_all():
    train = seen()
    train.logits[train.labels == 1] = torch.tensor([9.0, 0.0, 0.0])
    detector = CGDL(rule="latent").fit([train])
    expected = train.features["mean"][train.labels == 1].mean(0)
    torch.testing.assert_close(detector.gaussians.mean[1], expected)


def test_it_says_what_is_missing():
    with pytest.raises(ValueError, match="rule must be one of ranks, latent"):
        CGDL(rule="box")
    with pytest.raises(ValueError, match="call adjust"):
        CGDL().fit([seen()])(seen())
    assert not CGDL(rule="published").held_out
