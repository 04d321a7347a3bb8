"""The VMDLS detectors against scipy's Gaussians, and against leaks between images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from openset.activations import Activations
from openset.detectors import ODIN, build
from openset.detectors.rows import distinct
from openset.detectors.vmdls import VMDLS, VMDLSb
from openset.extractors.reconstruct import Reconstruct
from openset.extractors.tap import Tap
from openset.networks.autoencoder import autoencoder
from openset.runs.run import build_detector
from openset.scoring.views import layers_for, views


def data(rows=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    spread = torch.randn(5, 5, generator=generator)
    x = torch.randn(rows, 5, generator=generator) @ spread + 3 * labels[:, None]
    return Activations(
        logits=torch.zeros(rows, 3),
        features={"stage1": x[:, :2], "stage2": x[:, 2:]},
        labels=labels,
        extra={"reconstruction": torch.rand(rows, generator=generator)},
    )


def reference(train, test, shrinkage):
    """log p_c of the shrunk maximum-likelihood Gaussians, by scipy."""
    x, t = (a.stacked().double().numpy() for a in (train, test))
    table = []
    dim = x.shape[1]
    for c in range(train.logits.shape[1]):
        own = x[train.labels.numpy() == c]
        covariance = np.cov(own.T, bias=True)
        round_one = np.trace(covariance) / dim * np.eye(dim)
        covariance = (1 - shrinkage) * covariance + shrinkage * round_one
        table.append(multivariate_normal(own.mean(0), covariance).logpdf(t))
    return np.stack(table, axis=1)


@pytest.mark.parametrize("shrinkage", [0.0, 1e-3, 0.3])
def test_class_scores_are_the_log_densities_of_shrunk_gaussians(shrinkage):
    train, test = data(), data(40, seed=1)
    detector = VMDLSb(shrinkage=shrinkage).fit([train[:77], train[77:]])
    expected = reference(train, test, shrinkage)
    np.testing.assert_allclose(detector.class_scores(test), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(detector(test), -expected.max(1), rtol=1e-4, atol=1e-4)


def test_many_features_are_whitened_in_blocks():
    x, labels = torch.randn(600, 150, dtype=torch.float64), torch.arange(600) % 2
    x = x @ torch.randn(150, 150, dtype=torch.float64) / 12
    batch = Activations(torch.zeros(600, 2), {"stage1": x}, labels)
    detector = VMDLSb(shrinkage=0.1).fit([batch])
    table = reference(batch, batch, 0.1)
    label, score = detector.answer(batch)
    np.testing.assert_allclose(detector.class_scores(batch), table, rtol=1e-4)
    np.testing.assert_allclose(score, -table.max(1), rtol=1e-4)
    assert (label.numpy() == table.argmax(1)).all()


@pytest.mark.parametrize("shrinkage", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("rows", [90, 200])
def test_a_training_score_is_that_of_a_fit_without_the_row(shrinkage, rows):
    train = data(rows)
    detector = VMDLSb(shrinkage=shrinkage).fit([train])
    found = detector.training_score(train)
    every = torch.arange(rows)
    again = [
        VMDLSb(shrinkage=shrinkage).fit([train[every != i]]).score(train[i : i + 1])[0]
        for i in range(rows)
    ]
    # Exact without shrinkage; with it, a row is also missing from the mean variance.
    rtol = 1e-4 if shrinkage == 0 else 1e-3 + 30 * shrinkage / rows
    torch.testing.assert_close(found, torch.stack(again), rtol=rtol, atol=1e-3 + shrinkage)
    assert (found > detector.score(train)).float().mean() > 0.9


def test_vmdls_weighs_training_scores_too():
    train = data()
    detector = VMDLS(nn.Identity()).fit([train])
    distance = detector.l_ref - detector.left_out(train).amax(1)
    expected = train.extra["reconstruction"] * distance
    assert torch.equal(detector.training_score(train), expected)


def test_vmdls_weights_the_distance_to_the_largest_training_likelihood():
    train, test = data(), data(40, seed=1)
    detector = VMDLS(nn.Identity()).fit([train[:77], train[77:]])
    top = reference(train, train, 1e-3).max() + 1
    expected = test.extra["reconstruction"].numpy() * (top - reference(train, test, 1e-3).max(1))
    np.testing.assert_allclose(detector(test), expected, rtol=1e-4, atol=1e-4)


def test_a_likelihood_above_that_of_the_training_data_scores_zero():
    train = data()
    detector = VMDLS(nn.Identity()).fit([train])
    detector.keep(l_ref=detector.l_ref - 1e6)
    assert (detector(train) == 0).all()


def test_the_reference_is_a_quantile_of_the_training_likelihoods():
    train = data()
    score = VMDLS(nn.Identity(), reference=0.3).fit([train[:77], train[77:]])(train)
    # 60 of 200 lie at or below it; the 60th itself and all above score 0.
    assert int((score > 0).sum()) == 59
    with pytest.raises(ValueError, match="reference must lie"):
        VMDLS(nn.Identity(), reference=0.0)


def test_the_reconstruction_alone_is_how_far_the_layer_moves_with_the_likeliest_class():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    tap, image, blur = Tap(network, ["0"]), torch.rand(30, 1, 8, 8), nn.AvgPool2d(3, 1, padding=1)
    detector = VMDLS(blur, layer="0", part="reconstruction")
    train = replace(detector.view(tap)(image), labels=torch.arange(30) % 3)
    label, score = detector.fit([train]).answer(train)
    moved = network[0](image).mean((2, 3)) - network[0](blur(image)).mean((2, 3))
    torch.testing.assert_close(score, moved.square().mean(1))
    assert label.equal(VMDLSb(detector.layers_read).fit([train]).answer(train)[0])
    assert detector.training_score(train).equal(score)
    with pytest.raises(ValueError, match="part must be one of both, reconstruction; got 'w'"):
        VMDLS(blur, part="w")  # type: ignore[arg-type]


@pytest.mark.parametrize("detector", [VMDLSb(), VMDLS(nn.Identity())], ids=["vmdls-b", "vmdls"])
def test_a_score_depends_on_no_other_image_and_leaves_no_trace(detector):
    train, test = data(), data(40, seed=1)
    detector.fit([train])
    state = {key: value.clone() for key, value in detector.state_dict().items()}
    together = detector(test)
    alone = torch.cat([detector(test[i : i + 1]) for i in range(40)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    moved = replace(test, features={k: v.clone() for k, v in test.features.items()})
    moved.features["stage1"][1:] += 1000
    torch.testing.assert_close(detector(moved)[0], together[0], rtol=1e-5, atol=1e-5)
    assert all(torch.equal(state[key], value) for key, value in detector.state_dict().items())


def test_unlabelled_and_unknown_rows_do_not_move_the_fit():
    train = data()
    far = replace(
        train,
        features={k: v + 1e4 for k, v in train.features.items()},
        labels=torch.full((200,), -1),
    )
    for make in (VMDLSb, lambda: VMDLS(nn.Identity())):
        one, two = make().fit([train]), make().fit([train, far])
        assert one.state_dict().keys() == two.state_dict().keys()
        for key, value in one.state_dict().items():
            torch.testing.assert_close(value, two.state_dict()[key])


def test_layers_that_repeat_another_are_dropped():
    train = data()
    nearly = train.features["stage2"] * (1 + 1e-7)
    repeated = replace(train, features={**train.features, "penultimate": nearly})
    assert distinct(repeated, ["stage1", "stage2", "penultimate"]) == ("stage1", "stage2")
    assert distinct(repeated, ["penultimate", "logits"]) == ("penultimate", "logits")
    detector = VMDLSb().fit([repeated])
    assert detector.layers_read == ("stage1", "stage2")
    torch.testing.assert_close(detector(repeated), VMDLSb().fit([train])(train))


def test_constant_features_do_not_make_the_fit_singular():
    train = data()
    train.features["stage3"] = torch.zeros(200, 4)
    assert VMDLSb().fit([train])(train).isfinite().all()


def test_without_layers_it_reads_stages_penultimate_and_mean_but_no_logits():
    train = data()
    train.features["penultimate"] = torch.randn(200, 3)
    train.features["other"] = torch.randn(200, 3)
    assert VMDLSb().fit([train]).layers_read == ("stage1", "stage2", "penultimate")
    train.features["mean"] = torch.randn(200, 3)
    assert VMDLSb().fit([train]).layers_read == ("stage1", "stage2", "penultimate", "mean")
    train.features["stage3"] = train.features["mean"]
    assert VMDLSb().fit([train]).layers_read == ("stage1", "stage2", "stage3", "penultimate")
    assert VMDLSb(layers=["stage2", "logits"]).fit([train]).layers_read == ("stage2", "logits")


def test_errors_say_what_to_do():
    train = data()
    with pytest.raises(ValueError, match="read only once"):
        VMDLSb().fit(batch for batch in [train])
    with pytest.raises(ValueError, match="singular; raise shrinkage"):
        VMDLSb(shrinkage=0).fit([train[:6]])
    with pytest.raises(ValueError, match="view"):
        VMDLS(nn.Identity()).fit([train]).score(replace(train, extra={}))
    with pytest.raises(ValueError, match=r"classes \[2\]"):
        VMDLSb().fit([train[train.labels < 2]])


def test_view_adds_the_reconstruction_and_a_loaded_detector_scores_alike():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    tap, image = Tap(network, ["0"]), torch.rand(30, 1, 8, 8)
    detector = VMDLS(autoencoder(size=8), layer="0")
    detector.fit([replace(tap(image), labels=torch.arange(30) % 3)])
    view = detector.view(tap)
    assert isinstance(view, Reconstruct)
    again = VMDLS(autoencoder(size=8), layer="0")
    again.load_state_dict(detector.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(again.view(tap)(image)), detector(view(image)))


def test_needs_an_autoencoder_and_says_how_to_name_one(tmp_path):
    with pytest.raises(ValueError, match="needs autoencoder; write vmdls:autoencoder="):
        build("vmdls")
    with pytest.raises(ValueError, match="holds no run"):
        build_detector(f"vmdls:autoencoder={tmp_path}")
    with pytest.raises(ValueError, match="is 'x'; expected Module"):
        build("vmdls:autoencoder=x")
    with pytest.raises(ValueError, match=r"must be a network; got 'x'; read that of a run by"):
        VMDLS("x")
    mine = nn.Identity()
    assert build("vmdls:shrinkage=0.1", autoencoder=mine).autoencoder is mine
    assert build("vmdls-b", autoencoder=mine).settings().keys() == {"layers", "shrinkage"}


def test_one_layer_may_be_named_without_a_list():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    assert layers_for(network, [build("vmdls-b:layers=penultimate")]) == ("penultimate",)


def test_views_that_only_add_share_one_pass():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    tap, mine = Tap(network, ["0"]), nn.Identity()
    detectors = {
        "plain": VMDLSb(),
        "one": VMDLS(mine, layer="0"),
        "two": VMDLS(mine, layers=["penultimate"], layer="0"),
        "other": VMDLS(nn.Identity(), layer="0"),
        "odin": ODIN(),
    }
    found = {tuple(sorted(names)) for _, names in views(tap, detectors)}
    assert found == {("one", "plain", "two"), ("other",), ("odin",)}
    assert views(tap, {"plain": VMDLSb(), "b": VMDLSb()})[0][0] is tap
