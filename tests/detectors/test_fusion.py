import numpy as np
import pytest
import torch
from scipy import stats

from openset.activations import Activations, concatenate
from openset.detectors import (
    KNN,
    MLOD,
    Energy,
    Fusion,
    GeMOS,
    Mahalanobis,
    MaSF,
    MaxSoftmax,
    Temperature,
    build,
)
from openset.detectors.combinations import COMBINATIONS
from openset.detectors.fusion import LEAST, by_mistakes
from openset.model.saved import restore

GEMOS = "gaussian-mixture:components=1"


def batch(n=300, seed=0, k=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    logits = torch.randn(n, k, generator=generator) + 6 * torch.eye(k)[labels]
    features = torch.randn(n, 4, generator=generator) + 2 * labels[:, None]
    return Activations(logits, {"stage1": features}, labels)


def fitted(**settings):
    detectors = (Energy(), GeMOS(GEMOS, layers=["stage1"]))
    return Fusion(detectors, **settings).fit([batch()]).adjust([batch(100, 1), batch(99, 2)])


def p_values(fusion, rows):
    """(1 + #{known ≥ s}) / (n + 1) of the held-out scores themselves."""
    found = []
    for detector in fusion.detectors:
        known = torch.cat([detector.score(batch(100, 1)), detector.score(batch(99, 2))])
        found.append([(1 + int((known >= s).sum())) / 200 for s in detector.score(rows)])
    return np.array(found)


def test_is_the_mean_of_minus_log_p():
    fusion, rows = fitted(), batch(100, 1)
    expected = -np.log(p_values(fusion, rows)).mean(0)
    np.testing.assert_allclose(fusion.score(rows), expected, rtol=1e-4)


def test_weights_are_scaled_to_one():
    fusion, rows = fitted(weights=[3, 1]), batch(100, 1)
    first, second = -np.log(p_values(fusion, rows))
    np.testing.assert_allclose(fusion.score(rows), 0.75 * first + 0.25 * second, rtol=1e-4)


def exponential(mean, n=4000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(n, dtype=torch.double).exponential_(1 / mean, generator=generator)


def test_weights_from_mistakes_are_those_of_the_likelihood_ratio():
    surprise = torch.stack([exponential(4.0), exponential(1.5, seed=1)], dim=1)
    weights = by_mistakes(surprise)
    # log of (exp(−s/m)/m) / exp(−s) = (1 − 1/m)·s − log m.
    density = torch.distributions.Exponential(torch.tensor([1 / 4.0, 1 / 1.5]).double())
    ratio = density.log_prob(surprise) + surprise
    slope = (ratio[1:] - ratio[:1]) / (surprise[1:] - surprise[:1])
    torch.testing.assert_close(weights, slope.mean(0), rtol=0.05, atol=0)


def test_without_mistakes_all_weigh_the_same_and_none_is_silenced():
    none = by_mistakes(torch.empty(0, 3))
    assert torch.equal(none, none[:1].expand(3))
    useless = by_mistakes(torch.stack([exponential(5.0), torch.zeros(4000)], dim=1))
    assert useless[1] == LEAST * useless[0]


def test_weights_are_learned_from_held_out_mistakes():
    right, wrong = batch(400, 1), batch(60, 2)
    # Where the network errs, its logits are flat: energy is surprised and the features are not.
    wrong.logits = torch.randn(60, 3, generator=torch.Generator().manual_seed(5))
    detectors = (Energy(), Mahalanobis(layers=["stage1"]))
    fusion = Fusion(detectors, weights="mistakes").fit([batch()]).adjust([right, wrong])
    assert fusion.learned[0] > 1.5 * fusion.learned[1]
    first, second = fusion.surprise(wrong).unbind(1)
    share = fusion.learned / fusion.learned.sum()
    torch.testing.assert_close(fusion.score(wrong), share[0] * first + share[1] * second)
    again = restore(fusion.spec())
    again.load_state_dict(fusion.state_dict())
    assert torch.equal(again.score(wrong), fusion.score(wrong))


@pytest.mark.parametrize("weights", [None, [3, 1]])
def test_other_combinations(weights):
    rows, (a, b) = batch(100, 1), np.array(weights or [1, 1]) / sum(weights or [1, 1])
    p, q = p_values(fitted(), rows)
    expected = {
        "harmonic": -np.log(1 / (a / p + b / q)),
        "tippett": -np.log(np.minimum(p / a, q / b)),
        "guard": -a * np.log(p) - b * np.log(np.minimum(1, q / 0.05)),
    }
    for combine, score in expected.items():
        fusion = fitted(combine=combine, weights=weights)
        np.testing.assert_allclose(fusion.score(rows), score, rtol=1e-3, atol=1e-5)


def test_combinations_of_others_are_those_of_scipy():
    rows = batch(100, 1)
    rows = rows[torch.from_numpy(p_values(fitted(), rows).max(0) < 1)]  # At 1 scipy is infinite.
    p = p_values(fitted(), rows).T
    combined = [stats.combine_pvalues(each, "stouffer")[0] for each in p]
    np.testing.assert_allclose(
        fitted(combine="stouffer").score(rows), combined, rtol=1e-3, atol=1e-3
    )
    simes = [stats.false_discovery_control(each).min() for each in p]  # Benjamini–Hochberg's least.
    np.testing.assert_allclose(
        fitted(combine="simes").score(rows), -np.log(simes), rtol=1e-3, atol=1e-5
    )
    cauchy = np.arcsinh(stats.cauchy.isf(p).mean(1))
    np.testing.assert_allclose(fitted(combine="cauchy").score(rows), cauchy, rtol=1e-2, atol=1e-2)
    arithmetic, least = -np.log(p.mean(1)), -np.log(p.max(1))
    np.testing.assert_allclose(
        fitted(combine="arithmetic").score(rows), arithmetic, rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(fitted(combine="least").score(rows), least, rtol=1e-3, atol=1e-5)


def test_joint_ranks_count_known_images_that_surprise_every_member_as_much():
    fusion, rows = fitted(combine="joint"), batch(60, 7)
    known = fusion.surprise(concatenate([batch(100, 1), batch(99, 2)]))
    found = fusion.surprise(rows)
    counts = torch.tensor([int((known >= each).all(1).sum()) for each in found])
    expected = -((1 + counts) / 200).log() + 1e-3 * found.mean(1)
    torch.testing.assert_close(fusion.score(rows), expected)


def test_weights_of_simes_are_those_of_benjamini_and_hochberg():
    surprise = torch.tensor([[3.0, 1.0, 2.0]])
    weights = torch.tensor([0.5, 0.3, 0.2])
    p = (-surprise[0]).exp()
    expected = min(p[0] / 0.5, p[2] / 0.7, p[1] / 1.0)
    torch.testing.assert_close(COMBINATIONS["simes"](surprise, weights), -expected.log()[None])


@pytest.mark.parametrize("combine", sorted({"joint", *COMBINATIONS} - {"arithmetic", "least"}))
def test_far_rows_rank_among_themselves(combine):
    fusion, rows = fitted(combine=combine), batch(1)
    far = [
        Activations(rows.logits, {"stage1": rows.features["stage1"] + shift})
        for shift in (5.0, 50.0, 500.0)
    ]
    scores = torch.cat([fusion.score(part) for part in far])
    assert (scores.diff() > 0).all()


def test_names_and_layers_come_from_the_command_line():
    fusion = build("fusion:energy+knn+gemos,weights=2+1+1,combine=harmonic")
    assert [d.name for d in fusion.detectors] == ["energy", "knn", "gemos"]
    assert fusion.layers is None
    assert build("fusion").layers == ("penultimate", "stage1", "stage2")
    assert build("fusion:energy+mahalanobis+msp").layers == ("penultimate",)


def test_default_members():
    names = ("gen", "vra", "pnml", "gemos:layers=stage1+stage2,components=1")
    assert [d.spec() for d in Fusion().detectors] == [build(name).spec() for name in names]


def test_default_members_of_a_network_without_a_linear_last_layer():
    rows = batch()
    rows.features["stage2"] = rows.features["stage1"].square()
    fusion = Fusion().fit([rows]).adjust([rows])
    assert [d.name for d in fusion.detectors] == ["gen", "gemos"]
    again = restore(fusion.spec())
    again.load_state_dict(fusion.state_dict())
    assert torch.equal(again.score(rows), fusion.score(rows))


def test_members_have_settings_in_brackets():
    fusion = build("fusion:energy+(knn:k=7,layers=stage1+stage2),weights=2+1")
    assert fusion.weights == (2, 1)
    assert fusion.detectors[1].spec() == build("knn:k=7,layers=stage1+stage2").spec()


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("fusion:energy", "at least two detectors"),
        ("fusion:energy+kn", "did you mean knn"),
        ("fusion:detectors=energy+1", "unknown detector '1'"),
        ("fusion:3", "expected a list"),
    ],
)
def test_members_that_cannot_be_named_are_refused(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(spec)


def test_a_member_that_reconstructs_is_refused():
    with pytest.raises(ValueError, match="vmdls looks at the image again"):
        build("fusion:energy+vmdls", autoencoder=torch.nn.Identity())


def test_is_restored_with_its_members_settings():
    fusion, rows = fitted(weights=[2, 1]), batch(50, 3)
    again = restore(fusion.spec())
    again.load_state_dict(fusion.state_dict())
    assert torch.equal(again.score(rows), fusion.score(rows))
    assert again.detectors[1].density.components == 1


def test_a_members_own_held_out_learning_comes_first():
    fusion = Fusion([Temperature(), MaxSoftmax()]).fit([batch()]).adjust([batch(200, 1)])
    alone = Temperature().fit([batch(200, 1)])
    assert torch.equal(fusion.detectors[0].temperature, alone.temperature)


def test_a_detector_that_looks_again_is_refused():
    with pytest.raises(ValueError, match="odin looks at the image again"):
        build("fusion:energy+odin")


def test_a_fusion_without_held_out_scores_says_so():
    with pytest.raises(ValueError, match="call adjust"):
        Fusion([Energy(), MaxSoftmax()]).fit([batch()]).score(batch())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"detectors": [Energy()]}, "at least two detectors"),
        ({"detectors": "energy"}, "at least two detectors"),
        ({"detectors": [Energy(), MaxSoftmax()], "weights": [1]}, "one for each of 2 detectors"),
        ({"detectors": [Energy(), MaxSoftmax()], "weights": [1, 0]}, "must be above 0"),
        ({"detectors": [Energy(), MaxSoftmax()], "weights": "errors"}, "for each detector, or"),
        (
            {"detectors": [Energy(), MaxSoftmax()], "weights": (1, "x")},
            "for each detector, or 'mis",
        ),
        ({"detectors": [Energy(), MaxSoftmax()], "weights": 3}, "for each detector, or 'mistakes'"),
        ({"combine": "fishers"}, "did you mean fisher"),
        ({"detectors": [Energy(), "knn"]}, r"got 'knn'; to name its members, take .*build\("),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Fusion(**settings)


def test_mlod_is_fishers_mean_over_the_neighbours_of_each_layer():
    train, held_out, rows = batch(), batch(120, 1), batch(30, 2)
    mlod = MLOD(k=3).fit([train]).adjust([held_out])
    members = [KNN(3, (layer,)) for layer in ("stage1", "logits")]
    expected = Fusion(members).fit([train]).adjust([held_out]).score(rows)
    torch.testing.assert_close(mlod.score(rows), expected)


def test_masf_is_simes_within_and_fisher_over_the_layers():
    train, held_out, rows = batch(400), batch(199, 1), batch(30, 2)
    rows = rows[:7]

    def layer(x, known):
        """Simes' p of a row's channels, each two-sided among the training rows."""
        n, channels = known.shape
        above = [(1 + (known[:, j] >= x[j]).sum()) / (n + 1) for j in range(channels)]
        below = [(1 + (known[:, j] <= x[j]).sum()) / (n + 1) for j in range(channels)]
        p = np.sort(2 * np.minimum(above, below))
        return float(np.min(p * channels / np.arange(1, channels + 1)))

    masf = MaSF().fit([train]).adjust([held_out])
    expected = np.zeros(len(held_out))
    for name in ("stage1", "logits"):
        known = train.values(name).numpy()
        p = np.array([layer(x, known) for x in held_out.values(name).numpy()])
        expected += [-np.log((1 + (p <= one).sum()) / 200) / 2 for one in p]
    found = masf.score(held_out).numpy()
    # Between known values −log p is interpolated, and knots are left out.
    assert stats.spearmanr(found, expected)[0] > 0.99
    assert masf.score(rows).shape == (7,)
