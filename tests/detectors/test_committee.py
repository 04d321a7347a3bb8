import pytest
import torch
from torch import nn

from openset.activations import Activations
from openset.detectors import DeepEnsemble, Entropy, MaxSoftmax, MCDropout
from openset.extractors.dropouts import Dropouts
from openset.extractors.tap import Tap
from openset.networks import Normalize, cnn, ensemble, ladder_small, wrn_16_2
from openset.objectives import CrossEntropy
from openset.sampling import dropout_masks
from openset.training.loop import train

MEASURES = ("mutual-information", "entropy", "variance", "max")


def by_hand(members):
    """The four measures of one row from the members' logits `[T, K]`, by loops."""
    p = [logits.detach().double().softmax(0) for logits in members]
    mean = sum(p) / len(p)

    def entropy(q):
        return -sum(float(x) * float(x.log()) for x in q if x > 0)

    return {
        "mutual-information": entropy(mean) - sum(entropy(q) for q in p) / len(p),
        "entropy": entropy(mean),
        "variance": sum(float((q[c] - mean[c]) ** 2) for q in p for c in range(len(mean))) / len(p),
        "max": 1 - float(mean.max()),
    }


def rows(n=9, classes=3, dim=5):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(classes, dim), torch.randn(classes), torch.randn(n, dim) * 2
    return Activations(x @ weight.T + bias, {"penultimate": x}, head=(weight, bias))


@pytest.mark.parametrize("measure", MEASURES)
def test_dropout_is_the_measure_over_fixed_masks(measure):
    seen = rows()
    detector = MCDropout(measure, samples=7, rate=0.3, seed=4).fit([seen])
    weight, bias = seen.head
    for i, x in enumerate(seen.features["penultimate"]):
        members = torch.stack([weight @ (x * mask) + bias for mask in detector.masks])
        expected = by_hand(members)
        assert detector(seen[i : i + 1]).item() == pytest.approx(expected[measure], abs=1e-6)
        mean = members.softmax(1).mean(0)
        torch.testing.assert_close(detector.class_scores(seen)[i], mean)


def test_masks_leave_out_their_share_and_keep_the_mean():
    masks = dropout_masks(2000, 30, 0.3)
    assert (masks == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert masks.mean() == pytest.approx(1, abs=0.01)
    assert not masks[0].equal(masks[1])
    assert dropout_masks(5, 9, 0.5, seed=3).equal(dropout_masks(5, 9, 0.5, seed=3))
    assert not dropout_masks(5, 9, 0.5, seed=3).equal(dropout_masks(5, 9, 0.5, seed=4))


def test_without_dropout_nothing_differs_and_the_entropy_is_the_entropy():
    seen = rows()
    none = MCDropout(samples=3, rate=0.0).fit([seen])
    torch.testing.assert_close(none(seen), torch.zeros(9), atol=1e-6, rtol=0)
    plain = MCDropout("entropy", samples=3, rate=0.0).fit([seen])
    torch.testing.assert_close(plain(seen), Entropy()(seen), atol=1e-6, rtol=0)
    largest = MCDropout("max", samples=3, rate=0.0).fit([seen])
    torch.testing.assert_close(largest(seen), MaxSoftmax()(seen), atol=1e-6, rtol=0)


def test_members_who_are_nearly_sure_of_one_class_still_rank():
    small, large = torch.tensor([[30.0, 0.0, 31.0, 0.0]]), torch.tensor([[30.0, 0.0, 40.0, 0.0]])
    scores = [
        DeepEnsemble()(Activations(torch.zeros(1, 2), {"members": x})) for x in (small, large)
    ]
    assert 0 < scores[0] < scores[1] < 1e-12


@pytest.mark.parametrize("measure", MEASURES)
def test_an_ensemble_is_the_measure_over_its_networks(measure):
    torch.manual_seed(0)
    members = [cnn(3, 1, widths=(4, 8), hidden=8).eval() for _ in range(4)]
    for member in members:
        nn.init.normal_(member.head.weight, std=3)
    image = torch.rand(5, 1, 8, 8)
    seen = Tap(ensemble(members), ["members"])(image)
    score = DeepEnsemble(measure)(seen)
    for i in range(5):
        expected = by_hand(torch.stack([member(image[i : i + 1])[0] for member in members]))
        assert score[i].item() == pytest.approx(expected[measure], abs=1e-6)
    mean = torch.stack([member(image).softmax(1) for member in members]).mean(0)
    torch.testing.assert_close(seen.logits.softmax(1), mean)
    energies = torch.stack([member(image).logsumexp(1) for member in members])
    torch.testing.assert_close(seen.logits.logsumexp(1), energies.mean(0))
    torch.testing.assert_close(DeepEnsemble().class_scores(seen), mean)


def test_pixels_are_read_by_their_own_features():
    torch.manual_seed(0)
    network = ladder_small(classes=3, channels=1, width=4).eval()
    nn.init.normal_(network.head.weight)
    seen = Tap(network, ["penultimate"])(torch.rand(2, 1, 32, 48))
    detector = MCDropout(samples=5).fit([seen])
    score = detector(seen)
    assert score.shape == (2, 32, 48)
    weight, bias = seen.head
    x = seen.features["penultimate"][1, :, 7, 9]
    members = torch.stack([weight @ (x * mask) + bias for mask in detector.masks])
    expected = by_hand(members)["mutual-information"]
    assert score[1, 7, 9].item() == pytest.approx(expected, abs=1e-6)


def test_points_between_and_beyond_the_clouds_divide_the_sub_networks():
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(200) % 2
    known = 0.5 + 0.03 * torch.randn(200, 1, 1, 2, generator=generator)
    known[..., 0] += 0.2 * label.view(-1, 1, 1) - 0.1
    unknown = torch.rand(200, 1, 1, 2, generator=generator)
    unknown[..., 0] = 0.5 + 0.02 * (unknown[..., 0] - 0.5)
    layers = [Normalize([0.5], [0.05]), nn.Flatten(), nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 2)]
    torch.manual_seed(0)
    how = {"epochs": 30, "batch_size": 50, "lr": 0.05, "device": "cpu"}
    trained = train(CrossEntropy(nn.Sequential(*layers)), [(known, label)], **how)
    tap = Tap(trained)
    detector = MCDropout().fit([tap(known)])
    assert detector(tap(unknown)).median() > detector(tap(known)).quantile(0.95)


def wide(dropout=0.4):
    torch.manual_seed(0)
    network = wrn_16_2(classes=3, channels=1, dropout=dropout)
    nn.init.normal_(network.head.weight)
    return network.eval()


def test_the_networks_own_dropout_stays_on_with_masks_of_whole_channels():
    network, image = wide(), torch.rand(3, 1, 8, 8)
    state = {name: x.clone() for name, x in network.state_dict().items()}
    tap = Tap(network, ["stage1"])
    detector = MCDropout(samples=4, seed=2, whole=True)
    seen = detector.view(tap)(image)
    places = [m for m in network.modules() if isinstance(m, nn.Dropout)]
    for t in range(4):
        hooks = [
            place.register_forward_hook(
                lambda _, __, x, i=i, t=t: (
                    x * dropout_masks(4, x.shape[1], 0.4, 2 + 1000 * i)[t][:, None, None]
                )
            )
            for i, place in enumerate(places)
        ]
        expected = network(image)
        for hook in hooks:
            hook.remove()
        found = seen.features["members"][:, 3 * t : 3 * t + 3]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert seen.logits.equal(network(image))
    assert all(x.equal(state[name]) for name, x in network.state_dict().items())
    assert not any(place._forward_hooks for place in places)


def test_whole_networks_score_alone_as_in_a_batch_and_need_dropout():
    tap, image = Tap(wide()), torch.rand(60, 1, 8, 8)
    detector = MCDropout(samples=20, whole=True).fit([tap(image)])
    together = detector(detector.view(tap)(image))
    alone = torch.cat([detector(detector.view(tap)(image[i : i + 1])) for i in (0, 51, 59)])
    torch.testing.assert_close(alone, together[[0, 51, 59]], rtol=1e-3, atol=1e-5)
    assert (together > 0).all()
    with pytest.raises(ValueError, match="has no dropout module to leave on"):
        Dropouts(Tap(wide(dropout=0.0)))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="measure must be one of mutual-information, entropy"):
        DeepEnsemble("bald")
    with pytest.raises(ValueError, match="samples must be at least 1 and rate"):
        MCDropout(rate=1.0)
