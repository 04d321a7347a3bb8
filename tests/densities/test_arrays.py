"""Densities on plain arrays: the same as in batches, and as scikit-learn where it has them."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.mixture import GaussianMixture as Reference

from openset.densities import DENSITIES, GaussianMixture


@pytest.fixture(scope="module")
def x():
    random = np.random.default_rng(0)
    return random.normal(size=(300, 9)) @ random.normal(size=(9, 9)) + np.arange(9)


@pytest.mark.parametrize("name", sorted(DENSITIES))
def test_one_array_gives_what_its_batches_give(x, name):
    batches = torch.from_numpy(x).split(100)
    settings = {"epochs": 2, "transforms": 1} if name == "flow" else {}
    expected = DENSITIES[name](**settings).fit(batches)(torch.from_numpy(x[:9]))
    density = DENSITIES[name](**settings).fit(x)
    scores = density.score_samples(x[:9])
    np.testing.assert_allclose(scores, expected.detach().numpy(), rtol=1e-6)
    assert torch.equal(density.score_samples(torch.from_numpy(x[:9])), torch.from_numpy(scores))
    assert np.median(density.score_samples(x + 40)) > np.quantile(density.score_samples(x), 0.9)
    copy = clone(density)
    assert copy.get_params() == density.get_params()
    assert not list(copy.buffers())


def test_surprise_is_the_log_likelihood_of_scikit_learn_with_the_other_sign(x):
    ours = GaussianMixture(components=1, shrinkage=0).fit(x).score_samples(x)
    np.testing.assert_allclose(-ours, Reference(1, reg_covar=0).fit(x).score_samples(x), rtol=1e-3)
