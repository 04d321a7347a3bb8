"""Scores of a plain classifier's last layer, each beside a loop written from its equation."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax

from openset.activations import Activations
from openset.detectors import (
    ASH,
    DICE,
    FDBD,
    NAC,
    NCI,
    PNML,
    SCALE,
    SHE,
    VRA,
    Mahalanobis,
    MahalanobisPlusPlus,
    NNGuide,
    WeiPer,
)

CLASSES, UNITS = 4, 10


def batch(n=300, seed=0):
    start = torch.Generator().manual_seed(9)
    weight = 0.3 * torch.randn(CLASSES, UNITS, generator=start) + torch.eye(CLASSES, UNITS)
    bias = 0.1 * torch.randn(CLASSES, generator=start)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    x = (torch.randn(n, UNITS, generator=generator) + 2 * weight[labels]).relu()
    return Activations(x @ weight.T + bias, {"penultimate": x}, labels, head=(weight, bias))


def arrays(rows):
    """Features, logits, labels, weight and bias in double precision."""
    parts = rows.stacked(["penultimate"]), rows.logits, rows.labels, *rows.head
    return [part.double().numpy() for part in parts]


def score(detector, rows):
    train = batch()
    return detector.fit([train[:110], train[110:]]).score(rows).numpy()


def energies(features, weight, bias):
    return np.array([-logsumexp(weight @ x + bias) for x in features])


def kept(x, quantile):
    """A mask of the largest units of one image."""
    count = len(x) - round(len(x) * quantile)
    return np.isin(np.arange(len(x)), np.argsort(-x, kind="stable")[:count])


def test_scale_scales_all_units_by_the_share_of_the_largest():
    x, _, _, weight, bias = arrays(batch(50, 1))
    scaled = [row * np.exp(row.sum() / row[kept(row, 0.7)].sum()) for row in x]
    expected = energies(scaled, weight, bias)
    np.testing.assert_allclose(score(SCALE(0.7), batch(50, 1)), expected, rtol=1e-4)


@pytest.mark.parametrize("variant", ["s", "b", "p"])
def test_ash_prunes_the_smallest_units(variant):
    x, _, _, weight, bias = arrays(batch(50, 1))
    shaped = []
    for row in x:
        mask = kept(row, 0.8)  # Few enough that none of them is 0, which would tie.
        pruned = np.where(mask, row, 0)
        if variant == "s":
            pruned = pruned * np.exp(row.sum() / pruned.sum())
        if variant == "b":
            pruned = np.where(mask, row.sum() / mask.sum(), 0)
        shaped.append(pruned)
    expected = energies(shaped, weight, bias)
    np.testing.assert_allclose(score(ASH(variant, 0.8), batch(50, 1)), expected, rtol=1e-4)


@pytest.mark.parametrize("detector", [SCALE(), ASH(), ASH("b"), ASH("p")])
def test_an_image_without_activations_has_the_energy_of_the_bias(detector):
    rows = batch(4, 1)
    rows.features["penultimate"] = torch.zeros(4, UNITS)
    assert rows.head is not None
    expected = -rows.head[1].logsumexp(0).expand(4)
    torch.testing.assert_close(detector.score(rows), expected)


def test_vra_silences_clips_and_shifts():
    x, _, _, weight, bias = arrays(batch(50, 1))
    low, high = np.quantile(arrays(batch())[0], [0.5, 0.9])
    changed = [[0 if v < low else high if v > high else v + 0.3 for v in row] for row in x]
    expected = energies(np.array(changed), weight, bias)
    np.testing.assert_allclose(score(VRA(0.5, 0.9, 0.3), batch(50, 1)), expected, rtol=1e-4)


def test_dice_keeps_the_weights_that_contribute_most():
    x, _, _, weight, bias = arrays(batch(50, 1))
    contribution = weight * arrays(batch())[0].mean(0)
    sparse = np.where(contribution > np.quantile(contribution, 0.8), weight, 0)
    expected = energies(x, sparse, bias)
    np.testing.assert_allclose(score(DICE(0.8), batch(50, 1)), expected, rtol=1e-4)


def test_fdbd_is_the_mean_distance_to_the_other_boundaries():
    x, logits, _, weight, _ = arrays(batch(50, 1))
    mean = arrays(batch())[0].mean(0)
    expected = []
    for row, out in zip(x, logits, strict=True):
        y = out.argmax()
        gaps = [
            (out[y] - out[c]) / np.linalg.norm(weight[y] - weight[c])
            for c in range(CLASSES)
            if c != y
        ]
        expected.append(-np.mean(gaps) / np.linalg.norm(row - mean))
    np.testing.assert_allclose(score(FDBD(), batch(50, 1)), expected, rtol=1e-4)


def test_fdbd_leaves_out_classes_of_one_weight():
    rows = batch(8)
    weight = torch.ones(CLASSES, UNITS)
    rows.head = weight, torch.arange(4.0)
    assert FDBD().fit([rows]).score(rows).eq(0).all()


def test_nnguide_is_the_energy_times_that_of_the_likest_training_images():
    x, logits, _, _, _ = arrays(batch(20, 1))
    train, outs, _, _, _ = arrays(batch())
    bank = [z / np.linalg.norm(z) * logsumexp(out) for z, out in zip(train, outs, strict=True)]
    expected = []
    for row, out in zip(x, logits, strict=True):
        likeness = sorted(np.array(bank) @ row / np.linalg.norm(row))[-7:]
        expected.append(-np.mean(likeness) * logsumexp(out))
    np.testing.assert_allclose(score(NNGuide(k=7), batch(20, 1)), expected, rtol=1e-4)


def test_nci_is_the_angle_and_the_length():
    x, logits, _, weight, _ = arrays(batch(50, 1))
    mean = arrays(batch())[0].mean(0)
    expected = [
        -(row - mean) @ weight[out.argmax()] / np.linalg.norm(row - mean) - 0.2 * abs(row).sum()
        for row, out in zip(x, logits, strict=True)
    ]
    np.testing.assert_allclose(score(NCI(0.2), batch(50, 1)), expected, rtol=1e-4)


def test_she_takes_patterns_of_correct_rows_alone():
    x, logits, _, _, _ = arrays(batch(50, 1))
    train, outs, labels, _, _ = arrays(batch())
    correct = outs.argmax(1) == labels
    assert 0 < correct.sum() < len(correct)
    patterns = [train[correct & (labels == c)].mean(0) for c in range(CLASSES)]
    expected = [-row @ patterns[out.argmax()] for row, out in zip(x, logits, strict=True)]
    np.testing.assert_allclose(score(SHE(), batch(50, 1)), expected, rtol=1e-4)


def test_she_names_a_class_that_is_never_right():
    rows = batch(40)
    rows.logits[:, 2] = -100
    with pytest.raises(ValueError, match="class 2 has 0: give more images"):
        SHE().fit([rows])


def test_pnml_is_the_regret():
    x, _, _, weight, bias = arrays(batch(50, 1))
    train = arrays(batch())[0]
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    inverse = np.linalg.inv(unit.T @ unit)
    expected = []
    for row in x:
        z = row / np.linalg.norm(row)
        g = z @ inverse @ z
        p = softmax(weight @ z + bias)
        regret = np.log(sum(q / (q + (1 - q) * q ** (g / (1 + g))) for q in p))
        expected.append(regret / np.log(CLASSES))
    np.testing.assert_allclose(score(PNML(), batch(50, 1)), expected, rtol=1e-3)


def test_pnml_goes_on_ranking_where_probabilities_round_to_one():
    rows = batch(3)
    rows.features["penultimate"] = torch.eye(3, UNITS)
    detector = PNML().fit([batch()])
    rows.head = (
        torch.eye(CLASSES, UNITS) * torch.tensor([40.0, 60.0, 80.0, 1.0])[:, None],
        torch.zeros(4),
    )
    assert detector.score(rows).isfinite().all()


@pytest.mark.parametrize("centred", [False, True])
def test_mahalanobis_plus_plus_is_mahalanobis_of_unit_features(centred):
    train, test = batch(), batch(50, 1)
    detector = MahalanobisPlusPlus(centred=centred).fit([train[:70], train[70:]])
    middle = train.stacked(["penultimate"]).mean(0) if centred else 0.0
    for rows in (train, test):
        x = rows.features["penultimate"] - middle
        rows.features["penultimate"] = x / x.norm(dim=1, keepdim=True)
    expected = Mahalanobis().fit([train]).score(test)
    torch.testing.assert_close(detector.score(batch(50, 1)), expected, rtol=1e-3, atol=1e-3)


def states(x, alpha):
    """The published state of each unit, the gradient taken by autograd."""
    weight, bias = (part.double() for part in x.head)
    z = x.stacked(["penultimate"]).double().requires_grad_()
    loss = -(z @ weight.T + bias).log_softmax(1).mean(1).sum()
    (slope,) = torch.autograd.grad(loss, z)
    return torch.sigmoid(alpha * z * slope).detach().numpy()


def test_nac_counts_states_in_bins_that_widen_from_the_middle():
    half = 5
    left = np.log(1 + np.arange(half + 1) / half * (1000**0.5 - 1)) / np.log(1000)
    edges = np.concatenate([left, 1 - left[-2::-1]])
    seen = states(batch(), 5.0)
    counts = np.stack([np.histogram(unit, edges)[0] for unit in seen.T])
    detector = NAC(alpha=5.0, bins=2 * half, least=60).fit([batch()])
    # A state within rounding of an edge may fall on either side.
    assert np.abs(detector.counts.numpy() - counts).max() <= 1
    covered = np.minimum(detector.counts.numpy() / 60, 1)
    middles = 1000 ** np.minimum(edges, 1 - edges)  # The edges lie evenly on this scale.
    expected = []
    for row in states(batch(50, 1), 5.0):
        side = (1000 ** np.minimum(row, 1 - row) - 1) / (middles[half] - 1) * half
        place = np.where(row >= 0.5, 2 * half - side, side)
        at = np.arange(2 * half) + 0.5
        expected.append(
            -np.mean([np.interp(p, at, c) for p, c in zip(place, covered, strict=True)])
        )
    np.testing.assert_allclose(detector.score(batch(50, 1)), expected, rtol=1e-4)


def test_nac_slope_is_that_of_the_divergence_from_the_uniform():
    x, logits, _, weight, _ = arrays(batch(5, 1))
    closed = 1 / (1 + np.exp(-5 * x * ((softmax(logits, axis=1) - 1 / CLASSES) @ weight)))
    np.testing.assert_allclose(states(batch(5, 1), 5.0), closed, rtol=1e-5)


def jeffreys(p, q):
    p, q = p / p.sum(), q / q.sum()
    return np.sum(p * np.log(p / q)) + np.sum(q * np.log(q / p))


def smooth(histogram, width):
    padded = np.pad(histogram, ((width - 1) // 2, width - 1 - (width - 1) // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def test_weiper_compares_histograms_and_the_noisy_heads_confidence():
    detector = WeiPer(repeats=6, weights=(2.0, 0.5))
    found = score(detector, batch(20, 1))
    heads = detector.heads.double().numpy()
    x, train = arrays(batch(20, 1))[0], arrays(batch())[0]
    weight, bias = arrays(batch())[3:]
    noise = heads[:, :-1].reshape(6, CLASSES, UNITS) - weight
    lengths = np.linalg.norm(noise, axis=2) / np.linalg.norm(weight, axis=1)
    np.testing.assert_allclose(lengths, 2.1, rtol=1e-5)
    np.testing.assert_allclose(heads[:, -1].reshape(6, CLASSES), np.tile(bias, (6, 1)), rtol=1e-6)

    def views(rows):
        return rows, rows @ heads[:, :-1].T + heads[:, -1]

    parts = []
    for ours, usual, floor in zip(views(x), views(train), (0.01, 0.025), strict=True):
        ends = usual.min(), usual.max()
        known = np.mean([np.histogram(row, 100, ends)[0] / len(row) for row in usual], axis=0)
        rows = [smooth(np.histogram(row, 100, ends)[0] / len(row), 20) for row in ours]
        parts.append(np.array([jeffreys(row + floor, known + floor) for row in rows]))
    sure = np.exp(log_softmax(views(x)[1].reshape(20, 6, CLASSES), axis=2)).max(2).mean(1)
    np.testing.assert_allclose(found, parts[0] + 2 * parts[1] - 0.5 * sure, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SCALE(1.0), "below 1; got 1.0"),
        (
            lambda: ASH("x"),  # pyright: ignore[reportArgumentType]
            "unknown variant 'x'",
        ),
        (lambda: VRA(0.9, 0.5), "got 0.9 and 0.5"),
        (lambda: DICE(-0.1), "at least 0"),
        (lambda: NNGuide(k=0), "k of detector nnguide is 0; expected a whole number at least 1"),
        (lambda: NNGuide(k=400).fit([batch()]), "k=400 guides need as many training rows; got 300"),
        (lambda: NCI(-1.0), "alpha of detector nci is -1.0; expected a number at least 0"),
        (lambda: NAC(bins=7), "bins are even"),
        (
            lambda: WeiPer(repeats=0),
            "repeats of detector weiper is 0; expected a whole number at least 1",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize("make", [SCALE, ASH, VRA, DICE, FDBD, NCI, PNML, NAC, WeiPer])
def test_a_network_without_linear_head_is_told_what_to_do(make):
    rows = batch()
    rows.head = None
    with pytest.raises(ValueError, match=r"applies .* name it: Tap\(network, head=…\)"):
        make().fit([rows]).score(rows)
