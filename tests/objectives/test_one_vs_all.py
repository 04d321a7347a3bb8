import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.activations import VOID, Activations
from openset.detectors import OVA, OVNNI, MaxSoftmax
from openset.extractors.tap import Tap
from openset.networks import Normalize, cnn, ladder_small, one_vs_all
from openset.objectives import OneVsAll
from openset.training.loop import train

IMAGE = torch.linspace(0, 1, 320).sin().view(5, 1, 8, 8)
LABEL = torch.tensor([0, 2, 1, 1, 0])


def network():
    torch.manual_seed(0)
    return cnn(classes=3, channels=1, widths=(4, 8), hidden=16)


def pixels():
    torch.manual_seed(0)
    return ladder_small(classes=3, channels=1, width=4)


def seen(logits, binary):
    return Activations(logits, {"binary": binary})


@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_the_loss_is_cross_entropy_and_one_binary_loss_a_class(trunk):
    objective = OneVsAll(network(), trunk).eval()
    choice, answers = objective.network.heads(IMAGE)
    total = F.cross_entropy(choice, LABEL)
    for c in range(3):
        is_c = (c == LABEL).float()
        p = answers[:, c].sigmoid()
        total = total - (is_c * p.log() + (1 - is_c) * (1 - p).log()).mean()
    ((_, loss),) = objective.step(IMAGE, LABEL)
    torch.testing.assert_close(loss, total)


@pytest.mark.parametrize("trunk", ["shared", "separate"])
@pytest.mark.parametrize(("make", "image"), [(network, IMAGE), (pixels, torch.rand(2, 1, 32, 48))])
def test_a_tap_reads_the_answers_of_images_and_pixels(trunk, make, image):
    made = one_vs_all(make(), trunk).eval()
    tap = Tap(made, ["binary", *made.stages[:1]])
    whole = tap(image)
    choice, answers = made.heads(image)
    torch.testing.assert_close(whole.logits, choice)
    torch.testing.assert_close(whole.features["binary"], answers, rtol=1e-4, atol=1e-5)
    alone = tap(image[:1])
    torch.testing.assert_close(alone.features["binary"], answers[:1], rtol=1e-4, atol=1e-5)
    for detector in (OVA(), OVNNI()):
        assert detector(whole).shape == (len(image), *image.shape[2:] * (make is pixels))


def test_separate_trunks_share_nothing():
    made = one_vs_all(network(), "separate")
    _, answers = made.heads(IMAGE)
    answers[:, 1].sum().backward()
    for c, member in enumerate(made.binary):
        moved = [p.grad is not None and bool(p.grad.any()) for p in member.parameters()]
        assert any(moved) == (c == 1)
    assert all(p.grad is None for p in made.network.parameters())
    assert not made.binary[0].stage1[0].weight.equal(made.binary[1].stage1[0].weight)


def test_what_is_void_does_not_count():
    objective = OneVsAll(pixels()).eval()
    image, label = torch.rand(2, 1, 32, 32), torch.randint(3, (2, 32, 32))
    label[1] = VOID
    ((_, half),) = objective.step(image, label)
    ((_, first),) = objective.step(image[:1], label[:1])
    torch.testing.assert_close(half, first)
    ((_, nothing),) = objective.step(image, torch.full_like(label, VOID))
    nothing.backward()
    assert all(p.grad is None or not p.grad.any() for p in objective.parameters())


def test_yes_to_all_leaves_the_choice_and_no_to_all_still_ranks():
    logits = torch.randn(20, 3)
    ranks = OVNNI()(seen(logits, torch.full((20, 3), 60.0))).argsort()
    assert ranks.equal(MaxSoftmax()(Activations(logits)).argsort())
    refused = torch.full((3, 3), -60.0) - torch.arange(3)[:, None]
    for detector in (OVA(), OVNNI()):
        none = detector(seen(torch.zeros(3, 3), refused))
        assert (none > detector(seen(torch.zeros(3, 3), torch.zeros(3, 3)))).all()
    assert (OVNNI()(seen(torch.zeros(3, 3), refused)).diff() > 0).all()


def test_scores_are_the_equations():
    logits, binary = torch.randn(20, 3), torch.randn(20, 3)
    q = logits.softmax(1) * binary.sigmoid()
    torch.testing.assert_close((-OVNNI()(seen(logits, binary))).exp(), q.amax(1))
    torch.testing.assert_close(OVNNI().class_scores(seen(logits, binary)).exp(), q)
    torch.testing.assert_close(OVA()(seen(logits, binary)), 1 - binary.sigmoid().amax(1))
    assert OVA().class_scores(seen(logits, binary)).equal(binary)


@pytest.mark.parametrize("detector", [OVA(), OVNNI()])
def test_the_order_of_the_classes_does_not_count(detector):
    logits, binary = torch.randn(20, 3), torch.randn(20, 3)
    score = detector(seen(logits, binary))
    for order in itertools.permutations(range(3)):
        torch.testing.assert_close(detector(seen(logits[:, order], binary[:, order])), score)


def test_a_far_point_of_which_the_choice_is_sure_is_refused_by_all():
    """Two narrow clouds side by side, and points far beyond one, where a linear choice is surer."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(300) % 3
    centres = torch.tensor([[0.4, 0.4], [0.6, 0.4], [0.5, 0.6]])
    known = (centres[label] + 0.02 * torch.randn(300, 2, generator=generator)).view(300, 1, 1, 2)
    layers = [Normalize([0.5], [0.1]), nn.Flatten(), Radial(), nn.Linear(32, 3)]
    how = {"epochs": 60, "batch_size": 50, "lr": 0.1, "device": "cpu"}
    trained = train(OneVsAll(nn.Sequential(*layers)), [(known, label)], **how)
    tap = Tap(trained, ["binary"])
    far = torch.tensor([[0.05, 0.4], [0.95, 0.4], [0.5, 0.98]]).view(3, 1, 1, 2)
    assert (OVA()(tap(far)) > OVA()(tap(known)).max()).all()


class Radial(nn.Module):
    """Features that are near 0 far from all of 32 fixed centres."""

    def forward(self, x):
        centres = torch.randn(32, 2, generator=torch.Generator().manual_seed(0)) * 1.5
        return (-(x[:, None] - centres).square().sum(2)).exp()


def test_the_network_given_is_left_as_it_is():
    inner = network()
    before = copy.deepcopy(inner.state_dict())
    for trunk in ("shared", "separate"):
        with torch.no_grad():
            for parameter in OneVsAll(inner, trunk).parameters():
                parameter.zero_()
    assert all(x.equal(before[name]) for name, x in inner.state_dict().items())
    with pytest.raises(ValueError, match="trunk must be one of shared, separate; got 'both'"):
        OneVsAll(inner, "both")
