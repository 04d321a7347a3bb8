import math

import numpy as np
import pytest
import torch
from test_every_objective import images, make
from torch import nn
from torch.nn import functional as F

from openset.activations import Activations
from openset.detectors import SubSpaces
from openset.extractors.tap import Tap
from openset.networks import cnn, subspaces
from openset.training.loop import train


def seen(x, labels=None, classes=3):
    return Activations(torch.zeros(len(x), classes), {"embedding": x}, labels)


@pytest.fixture
def lines():
    """Features on three lines at right angles in six dimensions, on both sides of the origin."""
    torch.manual_seed(0)
    directions = torch.linalg.qr(torch.randn(6, 3))[0].T
    labels = torch.arange(60) % 3
    return directions[labels] * torch.randn(60, 1), labels, directions


def test_members_have_no_angle_and_what_is_orthogonal_has_the_right_one(lines):
    x, labels, directions = lines
    detector = SubSpaces().fit([seen(x, labels)])
    assert detector.score(seen(x)).max() < 2e-3
    rest = torch.linalg.svd(directions)[2][3:]
    torch.testing.assert_close(detector.score(seen(rest)), torch.full((3,), math.pi / 2))
    between = seen((directions[0] + directions[1])[None])
    torch.testing.assert_close(detector.score(between), torch.tensor([math.pi / 4]))


def test_lines_are_numpys_first_singular_vectors_whatever_the_batches(lines):
    _, labels, _ = lines
    x = torch.randn(60, 6) + torch.arange(6)
    detector = SubSpaces().fit([seen(x[:7], labels[:7]), seen(x[7:], labels[7:])])
    for c in range(3):
        left = np.linalg.svd(x[labels == c].T.double().numpy())[0][:, 0]
        assert abs(left @ detector.lines[c].double().numpy()) == pytest.approx(1, abs=1e-6)


def test_the_sign_and_the_length_of_features_do_not_count(lines):
    x, labels, _ = lines
    detector, y = SubSpaces().fit([seen(x, labels)]), torch.randn(9, 6)
    torch.testing.assert_close(detector.score(seen(-3 * y)), detector.score(seen(y)))
    made = subspaces(cnn(classes=3, channels=1, widths=(4, 8), hidden=16)).directions
    z = torch.randn(4, 16)
    torch.testing.assert_close(made(-z), made(z))


def test_directions_are_orthonormal_fixed_and_the_same_for_every_network():
    network = cnn(classes=5, channels=1, widths=(4, 8), hidden=16)
    one, other = subspaces(network), subspaces(network)
    w = one.directions.directions
    torch.testing.assert_close(w @ w.T, torch.eye(5))
    assert w.equal(other.directions.directions)
    assert not any("directions" in name for name, _ in one.named_parameters())
    with pytest.raises(ValueError, match="5 directions at right angles need as many features"):
        subspaces(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 5)))


@pytest.mark.parametrize(("classes", "floor"), [(10, 1.461), (100, 3.622)])
def test_the_loss_cannot_fall_below_its_floor(classes, floor):
    best = F.cross_entropy(torch.eye(classes), torch.arange(classes)).item()
    assert best == pytest.approx(math.log(math.e + classes - 1) - 1)
    assert best == pytest.approx(floor, abs=5e-4)


def test_draws_take_the_smallest_angle_over_fixed_dropouts(lines):
    x, labels, _ = lines
    detector = SubSpaces(draws=4, rate=0.5).fit([seen(x, labels)])
    y = torch.randn(5, 6)
    for i in range(5):
        angles = []
        for mask in detector.masks:
            f = y[i] * mask
            angles += [math.acos(min(1, abs(float(f @ u / f.norm())))) for u in detector.lines]
        assert detector.score(seen(y[i : i + 1])).item() == pytest.approx(min(angles), abs=1e-4)
    assert (detector.masks == 0).any()
    assert detector.masks.unique().tolist() == [0, 2]


def test_training_lays_each_class_on_a_line():
    network = train(make("subspaces"), [images(240)], epochs=20, batch_size=24, lr=0.05)
    x, labels = images(240)
    features = Tap(network, ["embedding"])(x).features["embedding"]
    for c in range(3):
        energy = torch.linalg.svdvals(features[labels == c]).square()
        assert energy[0] / energy.sum() > 0.9


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="draws must be at least 0 and rate"):
        SubSpaces(draws=-1)
