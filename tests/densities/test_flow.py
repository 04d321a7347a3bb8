"""Flow is a density, and learns what one Gaussian cannot hold."""

import math

import pytest
import torch

from openset.densities import Flow


def ring(rows=600, classes=2):
    angle = 2 * math.pi * torch.rand(rows)
    labels = torch.arange(rows) % classes
    radius = (1 + labels) + 0.05 * torch.randn(rows)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), labels


def test_learns_the_hole_in_a_ring():
    x, labels = ring()
    density = Flow(epochs=60, hidden=32).fit_classes([(x, labels)], 2)
    assert density.surprise(torch.zeros(1, 2), 1) > density(x, labels).quantile(0.95)
    assert (density.table(x).argmin(1) == labels).float().mean() > 0.9


def test_probability_sums_to_one_in_the_original_units():
    x = torch.randn(300, 1) * 0.1 + 3
    grid = torch.linspace(1, 5, 4001)[:, None]
    total = (-Flow(transforms=1, hidden=16, epochs=10).fit([x])(grid)).exp().sum() * 0.001
    assert total.item() == pytest.approx(1, abs=1e-3)


def test_reduction():
    x = torch.randn(200, 2) @ torch.randn(2, 30)
    density = Flow(reduce=2, epochs=5, hidden=16).fit([x])
    assert density.mean.shape == (1, 2)
    assert density(5 * x).median() > density(x).median()
