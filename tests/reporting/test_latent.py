"""The pictures of a latent space."""

import numpy as np
import pytest
import torch

from openset import networks
from openset.activations import Activations
from openset.data import ImageSet
from openset.detectors import MaxSoftmax, VMDLSb
from openset.model.fit import fit
from openset.reporting.latent import latent, pictures, tsne


def rows(count, shift=0.0, labels=None, seed=0):
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) + shift
    return Activations(torch.zeros(count, 3), {"mean": x, "g": torch.cat([x, x], 1)}, labels)


def drawn(figure):
    return {c.get_label(): np.asarray(c.get_offsets()) for c in figure.axes[0].collections}


def test_latent_draws_the_values_themselves_by_class():
    known, unknown = rows(30, labels=torch.arange(30) % 3), rows(5, 9.0, seed=1)
    points = drawn(latent(known, unknown, classes=["zero", "one", "two"]))
    assert set(points) == {"zero", "one", "two", "unknown"}
    np.testing.assert_allclose(points["one"], known.features["mean"][1::3], rtol=1e-6)
    np.testing.assert_allclose(points["unknown"], unknown.features["mean"], rtol=1e-6)


def test_tsne_is_seeded_bounded_and_keeps_far_groups_apart():
    known, unknown = rows(60, labels=torch.arange(60) % 2), rows(50, 100.0, seed=1)
    points = drawn(tsne(known, unknown, images=40))
    assert sum(len(x) for x in points.values()) == 80
    again = drawn(tsne(known, unknown, images=40))
    assert all(np.array_equal(points[key], again[key]) for key in points)
    near = np.concatenate([points["0"], points["1"]])
    gap = np.linalg.norm(near.mean(0) - points["unknown"].mean(0))
    assert gap > np.linalg.norm(near - near.mean(0), axis=1).max()


def test_errors_say_what_to_do():
    known = rows(9, labels=torch.arange(9) % 2)
    with pytest.raises(ValueError, match="size=2"):
        latent(known, layer="g")
    with pytest.raises(ValueError, match="no labels"):
        latent(rows(9))


def test_pictures_are_drawn_where_class_gaussians_read_layers():
    network = networks.latent(networks.cnn(3, 1, widths=(4, 8), hidden=8), size=2)
    known = ImageSet(torch.rand(40, 1, 8, 8), torch.arange(40) % 3, name="digits")
    noise = ImageSet(torch.rand(20, 1, 8, 8), name="noise")
    models = fit(network, {"msp": MaxSoftmax(), "gaussians": VMDLSb()}, known, known)
    drawn = pictures(models, known, {"noise": noise}, network="mine")
    assert list(drawn) == [
        "mine: the ensemble of digits and noise by t-SNE",
        "mine: the latent space of digits and noise",
    ]
    assert all(png.startswith(b"\x89PNG") for png in drawn.values())
    assert pictures({"msp": models["msp"]}, known, {"noise": noise}) == {}
