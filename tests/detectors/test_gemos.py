import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Reference

from openset.activations import Activations
from openset.densities import GaussianMixture
from openset.detectors import GeMOS, build


def batch(n=400, k=3, seed=0, wrong=0.1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    predicted = torch.where(torch.rand(n, generator=generator) < wrong, (labels + 1) % k, labels)
    logits = torch.randn(n, k, generator=generator) + 9 * torch.eye(k)[predicted]
    a = torch.randn(n, 4, generator=generator) + 5 * labels[:, None]
    return Activations(logits, {"stage1": a, "penultimate": a[:, :2] * 2}, labels)


def test_each_class_is_fitted_on_its_correct_rows_and_scored_by_the_prediction():
    train, test = batch(), batch(seed=1)
    density = GaussianMixture(components=1, shrinkage=0)
    detector = GeMOS(density, layers=["stage1"]).fit([train[:150], train[150:]])
    predicted = train.logits.argmax(1)
    models = []
    for c in range(3):
        rows = train.features["stage1"][(train.labels == c) & (predicted == c)]
        models.append(Reference(1, reg_covar=1e-9).fit(rows.double().numpy()))
    x, chosen = test.features["stage1"].double().numpy(), test.logits.argmax(1).tolist()
    expected = [-models[c].score_samples(x[i : i + 1])[0] for i, c in enumerate(chosen)]
    np.testing.assert_allclose(detector.score(test), expected, rtol=1e-3)


def test_reads_stages_penultimate_and_logits_unless_told():
    detector = GeMOS("gaussian-mixture:components=1").fit([batch()])
    assert detector.layers is None
    assert detector.layers_read == ("stage1", "penultimate", "logits")


def test_of_layers_that_are_the_same_tensor_one_is_read():
    """As of the last stage and the penultimate of a ResNet, to the rounding of their pooling."""
    train, test = batch(), batch(seed=1)
    for part in (train, test):
        part.features["penultimate"] = part.features["stage1"] * (1 + 1e-6)
    detector = GeMOS("gaussian-mixture:components=1").fit([train])
    assert detector.layers_read == ("stage1", "logits")
    once = GeMOS("gaussian-mixture:components=1", layers=["stage1", "logits"]).fit([train])
    torch.testing.assert_close(detector.score(test), once.score(test))


def test_a_class_that_is_never_right_is_named():
    train = batch(wrong=0)
    train.labels = torch.where(train.labels == 1, 2, train.labels)
    with pytest.raises(ValueError, match=r"class(es)? 1"):
        GeMOS("gaussian-mixture:components=1").fit([train])


def test_settings_on_the_command_line_reach_the_density():
    detector = build("gemos:components=3,layers=stage1+logits,shrinkage=0.5")
    assert detector.layers == ("stage1", "logits")
    assert detector.density.components == 3
    assert detector.density.shrinkage == 0.5


def test_a_wrong_setting_names_the_nearest():
    with pytest.raises(ValueError, match=r"'componets'.*components"):
        build("gemos:componets=3")


def quantile(**given):
    return GeMOS("gaussian-mixture:components=1", ["stage1"], "quantile", **given)


def test_quantile_calibration_ranks_among_the_predicted_class():
    detector = quantile().fit([batch()])
    held_out = batch(seed=2)
    detector.adjust([held_out[:100], held_out[100:]])
    surprise, predicted = detector.surprise(held_out), held_out.logits.argmax(1)
    expected = []
    for s, c in zip(surprise, predicted, strict=True):
        own = surprise[predicted == c]
        expected.append(-np.log((1 + int((own >= s).sum())) / (len(own) + 1)))
    np.testing.assert_allclose(detector.score(held_out), expected, rtol=1e-4)


def test_only_quantile_calibration_learns_from_held_out_data():
    assert not GeMOS().held_out
    assert quantile().held_out
    with pytest.raises(ValueError, match="call adjust"):
        quantile().fit([batch()]).score(batch())


def test_classes_with_too_few_held_out_rows_are_named():
    detector = quantile().fit([batch()])
    held_out = batch(wrong=0)
    with pytest.raises(ValueError, match="class 2 has 0: hold out more"):
        detector.adjust([held_out[held_out.labels != 2]])


def test_an_unknown_calibration_is_refused():
    with pytest.raises(ValueError, match="must be none or quantile; got 'ranks'"):
        GeMOS(calibration="ranks")
