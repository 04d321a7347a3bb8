import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset import data
from openset.detectors import CROSR as Detector
from openset.detectors import OpenMax
from openset.extractors.tap import Tap
from openset.networks import cnn, densenet_bc_100, ladder_codes, wrn_16_2
from openset.objectives import CROSR
from openset.training.loop import train

IMAGE = torch.linspace(0, 1, 320).sin().view(5, 1, 8, 8)


def network():
    torch.manual_seed(0)
    return cnn(classes=3, channels=1, widths=(4, 8), hidden=16)


def known():
    torch.manual_seed(1)
    labels = torch.arange(90) % 3
    return (torch.rand(90, 1, 8, 8) + F.one_hot(labels, 8).view(90, 1, 1, 8)) / 2, labels


def test_the_logits_are_the_classifiers_to_the_bit():
    plain = network().eval()
    assert ladder_codes(copy.deepcopy(plain)).eval()(IMAGE).equal(plain(IMAGE))


def test_the_codes_are_the_largest_values_of_each_stages_branch():
    wrapped = ladder_codes(network(), code=5).eval()
    seen = Tap(wrapped, [*wrapped.stages, "code"])(IMAGE)
    x, columns = wrapped.normalize(IMAGE), []
    for stage, narrow in zip(
        (wrapped.network.stage1, wrapped.network.stage2), wrapped.narrow, strict=True
    ):
        x = stage(x)
        columns.append(narrow(x).relu().flatten(2).max(2).values)
    torch.testing.assert_close(seen.features["code"], torch.cat(columns, 1))
    assert seen.features["penultimate"].shape == (5, 16)


@pytest.mark.parametrize("make", [wrn_16_2, densenet_bc_100])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (30, 22)])
def test_images_of_any_size_are_drawn_in_their_size(make, size):
    wrapped = ladder_codes(make(classes=3), code=2).eval()
    logits, maps = wrapped.encode(torch.rand(2, 3, *size))
    again = wrapped.reconstruct(maps, size)
    assert logits.shape == (2, 3)
    assert again.shape == (2, 3, *size)
    assert (again >= 0).all()
    assert (again <= 1).all()


def test_the_loss_adds_the_error_in_units_of_the_normalisation():
    objective = CROSR(network(), weight=0.7).eval()
    objective.network.normalize.std.fill_(0.25)
    label = torch.arange(5) % 3
    logits, maps = objective.network.encode(IMAGE)
    error = (objective.network.reconstruct(maps, (8, 8)) - IMAGE).square().mean() / 0.25**2
    ((_, loss),) = objective.step(IMAGE, label)
    torch.testing.assert_close(loss, F.cross_entropy(logits, label) + 0.7 * error)


def fitted(wrapped, detector):
    image, _ = known()
    wrapped.requires_grad_(False)
    seen = Tap(wrapped, ["code"])(image)
    seen.labels = seen.logits.argmax(1)  # All are right, so that every class has rows.
    return detector.fit([seen]), Tap(wrapped, ["code"])(torch.rand(20, 1, 8, 8))


@pytest.fixture(scope="module")
def wrapped():
    return train(CROSR(network()), [known()], epochs=8, batch_size=15, lr=0.002, device="cpu")


def test_with_silent_branches_it_is_openmax_on_logits(wrapped):
    silent = copy.deepcopy(wrapped)
    for narrow in silent.narrow:
        nn.init.zeros_(narrow.weight)
        nn.init.zeros_(narrow.bias)
    ours, seen = fitted(silent, Detector())
    plain, _ = fitted(silent, OpenMax())
    torch.testing.assert_close(ours(seen), plain(seen))
    loud, heard = fitted(wrapped, Detector())
    assert not torch.allclose(loud(heard), plain(seen))


def test_the_published_rule_takes_probability_from_the_classes(wrapped):
    detector, seen = fitted(wrapped, Detector(rule="published"))
    both = torch.cat([seen.logits, seen.features["code"]], dim=1)
    w = detector.outlying(both)
    for i in range(20):
        p = seen.logits[i].softmax(0)
        left = torch.stack([p[k] * (1 - w[i, k]) for k in range(3)])
        torch.testing.assert_close(detector(seen)[i], 1 - left.sum(), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(detector.class_scores(seen)[i], left, atol=1e-6, rtol=1e-4)


def test_digits_are_drawn_better_than_their_mean_and_classified_as_well():
    digits = data.load("digits")
    torch.manual_seed(0)
    drawn = train(CROSR(cnn(classes=10, channels=1)), digits, epochs=10, device="cpu")
    image = torch.stack([digits.test[i][0] for i in range(len(digits.test))])
    label = torch.tensor([digits.test[i][1] for i in range(len(digits.test))])
    with torch.no_grad():
        logits, maps = drawn.encode(image)
        error = (drawn.reconstruct(maps, (8, 8)) - image).square().mean()
    assert error < (image - image.mean(0)).square().mean() / 2
    assert (logits.argmax(1) == label).float().mean() > 0.95


def test_what_has_no_stages_or_no_such_rule_is_refused():
    with pytest.raises(ValueError, match="need a network in stages; Sequential is none"):
        CROSR(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(ValueError, match="rule must be one of openmax, published"):
        Detector(rule="code")
