"""CSI: its contrast, its shifts, and the score by the nearest of the training images."""

import pytest
import torch
from torch.nn import functional as F

from openset.activations import Activations
from openset.data import batches, load
from openset.detectors import CSI as Detector
from openset.detectors import MSP
from openset.evaluation.metrics import auroc
from openset.extractors.crops import Crops, crop
from openset.extractors.tap import Tap
from openset.networks import cnn, shifted
from openset.networks.heads.shifted import SHIFTS, shifted_image
from openset.objectives import CSI
from openset.objectives.csi import contrast
from openset.training.loop import train

LAYERS = ["projection", "shift"]


def small(classes=3):
    torch.manual_seed(0)
    return cnn(classes=classes, channels=1, widths=(4, 8), hidden=8)


def by_pairs(z, groups, temperature):
    """SupCon as Khosla et al. 2020 write it, equation 2."""
    z = [x / x.norm() for x in z.double()]
    total = 0.0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        below = sum((z[i] @ z[a] / temperature).exp() for a in others)
        alike = [a for a in others if groups[a] == groups[i]]
        shares = [((z[i] @ z[p] / temperature).exp() / below).log() for p in alike]
        total = total - sum(shares) / len(alike)
    return (total / len(z)).float()


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_contrast_is_that_of_all_pairs(temperature):
    z, groups = torch.randn(14, 5), torch.arange(14) % 4
    torch.testing.assert_close(contrast(z, groups, temperature), by_pairs(z, groups, temperature))


def test_of_pairs_alone_it_is_a_softmax_over_all_others():
    z = torch.randn(12, 5)
    likeness = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T / 0.5
    expected = F.cross_entropy(likeness.fill_diagonal_(-torch.inf), torch.arange(12).roll(6))
    torch.testing.assert_close(contrast(z, torch.arange(6).repeat(2), 0.5), expected)


@pytest.mark.parametrize("labels", [True, False])
def test_looks_at_one_class_or_at_one_image_in_one_shift_are_alike(labels):
    objective = CSI(small(), labels=labels, temperature=0.3).eval()
    image, label = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 1, 2])
    torch.manual_seed(3)
    losses = dict(objective.step(image, label))
    torch.manual_seed(3)
    features = objective.network.network(objective.looks(image))
    names = [
        (int(label[i]) if labels else i, k) for k in range(SHIFTS) for _ in "ab" for i in range(4)
    ]
    expected = by_pairs(objective.network.projection(features), names, 0.3)
    which = torch.tensor([k for _, k in names])
    told = F.cross_entropy(objective.network.shift(features), which)
    torch.testing.assert_close(losses["network"], expected if labels else expected + told)


def test_heads_learn_class_and_shift_from_features_as_they_are():
    objective = CSI(small(), shift="cutperm").eval()
    image, label = torch.rand(5, 1, 8, 8), torch.arange(5) % 3
    torch.manual_seed(3)
    _, (_, loss) = objective.step(image, label)
    torch.manual_seed(3)
    network = objective.network
    features = network.network(objective.looks(image)).view(SHIFTS, 10, -1)
    total = 0.0
    for k in range(SHIFTS):
        joint = network.joint(features[k])
        total = total + F.cross_entropy(joint, 3 * k + label.repeat(2))
        total = total + F.cross_entropy(network.shift(features[k]), torch.full((10,), k))
    torch.testing.assert_close(loss, total / SHIFTS)
    loss.backward()
    assert all(p.grad is None for p in objective.learners()["network"].parameters())


@pytest.mark.parametrize("shift", ["rotation", "cutperm"])
def test_the_logits_are_the_mean_over_four_looks(shift):
    network, image = shifted(small(), shift).eval(), torch.rand(5, 1, 8, 8)
    looks = [network.joint(network.network(shifted_image(image, shift, k))) for k in range(SHIFTS)]
    own = [joint[:, 3 * k : 3 * k + 3] for k, joint in enumerate(looks)]
    torch.testing.assert_close(network(image), torch.stack(own).mean(0))
    seen = Tap(network, [*network.stages, *LAYERS])(image)
    weight, bias = seen.head
    torch.testing.assert_close(seen.features["penultimate"] @ weight.T + bias, seen.logits)
    assert seen.features["shift"].shape == (5, SHIFTS * SHIFTS)


def test_halves_are_swapped_and_nothing_is_lost():
    image = torch.rand(2, 1, 5, 6)
    quarters = [shifted_image(image, "cutperm", k) for k in range(SHIFTS)]
    assert quarters[0].equal(image)
    assert quarters[1].equal(torch.cat([image[..., 3:], image[..., :3]], 3))
    assert quarters[2].equal(torch.cat([image[:, :, 2:], image[:, :, :2]], 2))
    assert all(x.flatten().sort().values.equal(image.flatten().sort().values) for x in quarters)


@pytest.mark.parametrize("crops", [0, 3])
def test_the_score_is_the_papers(crops):
    network, known, image = shifted(small()).eval(), torch.rand(9, 1, 8, 8), torch.rand(4, 1, 8, 8)
    network.shift.bias.data += 3 * torch.rand(SHIFTS)
    tap = Tap(network, LAYERS)
    with torch.no_grad():
        train = tap(known)
        train.labels = torch.arange(9) % 3
        detector = Detector(crops=crops).fit([train])
        view = detector.view(tap)
        score = detector(view(image))
        parts = [crop(image, *place) for place in view.places] if crops else [image]
        total = 0.0
        for k in range(SHIFTS):
            z, shift = (look(network, known, k) for look in (projected, told))
            own = [
                torch.stack([f(network, x, k) for x in parts]).mean(0) for f in (projected, told)
            ]
            directions = torch.stack([x / x.norm() for x in z])
            nearest = torch.stack([max(x @ a for a in directions) for x in own[0]])
            total = total + nearest / z.norm(dim=1).mean()
            total = total + own[1] / shift.mean().clamp_min(1e-3)
    torch.testing.assert_close(score, -total / SHIFTS)


def projected(network, image, k):
    return network.projection(network.network(shifted_image(image, "rotation", k)))


def told(network, image, k):
    return network.shift(network.network(shifted_image(image, "rotation", k)))[:, k]


def test_an_image_alone_is_looked_at_as_in_any_batch():
    tap, image = Tap(shifted(small()).eval(), LAYERS), torch.rand(6, 1, 8, 8)
    look = Crops(tap, LAYERS, count=4)
    together = look(image).features["crops of projection"]
    for order in ([3], [5, 3, 0], [3, 3]):
        alone = Crops(tap, LAYERS, count=4)(image[order]).features["crops of projection"]
        torch.testing.assert_close(alone, together[order])
    plain = tap(image)
    assert look(image).features["projection"].equal(plain.features["projection"])


def test_a_crop_shows_half_of_the_image_and_never_leaves_it():
    ramp = torch.arange(20.0).expand(1, 1, 20, 20)
    for place in (0.0, 0.5, 0.999):
        part = crop(ramp, place, place)
        assert part.shape == ramp.shape
        assert part.max() - part.min() == pytest.approx(14, abs=0.5)
    assert crop(ramp, 0, 0).min() == 0
    assert crop(ramp, 0, 0.999).max() == 19


def test_it_learns_digits_and_their_shifts():
    data = load("digits", known_classes="0-5")
    torch.manual_seed(0)
    network = cnn(classes=6, channels=1, widths=(16, 32), hidden=64)
    objective = CSI(network, shift="cutperm", flip=False, area=0.35)
    kept = train(objective, data.train, epochs=5, batch_size=32, lr=0.02)
    [(known, label)], [(strange, _)] = batches(data.test, 1000), batches(data.unknown, 1000)
    tap = Tap(kept, LAYERS)
    with torch.no_grad():
        seen, unknown = tap(known), tap(strange)
    shift = seen.features["shift"].view(-1, SHIFTS, SHIFTS).argmax(2)
    assert (seen.logits.argmax(1) == label).float().mean() > 0.95
    assert (shift == torch.arange(SHIFTS)).float().mean() > 0.6  # Of four.
    assert auroc(MSP()(seen).numpy(), MSP()(unknown).numpy()) > 0.9


def test_it_refuses_what_it_cannot_do():
    label = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="only square ones can be turned"):
        list(CSI(small()).step(torch.rand(2, 1, 8, 9), label))
    assert list(CSI(small(), shift="cutperm").step(torch.rand(2, 1, 8, 9), label))
    with pytest.raises(ValueError, match="shift must be one of rotation, cutperm; got 'turn'"):
        CSI(small(), shift="turn")
    for wrong in ({"area": 0.0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=r"is 0\.0; expected a number above 0"):
            CSI(small(), **wrong)
    with pytest.raises(ValueError, match="crops of detector csi is -1; expected"):
        Detector(crops=-1)


def test_a_shift_that_is_told_wrongly_does_not_turn_the_score_round():
    z, shift = torch.rand(6, 8), -torch.ones(6, 16)
    seen = Activations(z, {"projection": z, "shift": shift}, torch.arange(6) % 3)
    surer = Activations(z, {"projection": z, "shift": shift + 0.5})
    detector = Detector(crops=0).fit([seen])
    assert (detector(surer) < detector(seen)).all()
