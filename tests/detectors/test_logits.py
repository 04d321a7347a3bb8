import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

from openset.activations import Activations
from openset.detectors import Energy, Entropy, MaxLogit, MaxSoftmax, Temperature


@pytest.fixture
def logits():
    return torch.randn(50, 7, dtype=torch.float64) * 4


def test_max_softmax_is_one_minus_the_largest_probability(logits):
    score = MaxSoftmax(temperature=2.5).score(Activations(logits))
    np.testing.assert_allclose(score, 1 - softmax(logits.numpy() / 2.5, 1).max(1), rtol=1e-12)


def test_max_softmax_still_ranks_where_the_probability_rounds_to_one():
    logits = torch.tensor([[30.0, 0.0, 0.0], [40.0, 0.0, 0.0]])
    assert (logits.softmax(1).max(1).values == 1).all()
    score = MaxSoftmax().score(Activations(logits))
    np.testing.assert_allclose(score, [2 * np.exp(-30), 2 * np.exp(-40)], rtol=1e-5)


def test_max_logit(logits):
    np.testing.assert_array_equal(MaxLogit().score(Activations(logits)), -logits.numpy().max(1))


def test_entropy_equals_scipy(logits):
    score = Entropy(temperature=2).score(Activations(logits))
    np.testing.assert_allclose(score, entropy(softmax(logits.numpy() / 2, 1), axis=1), rtol=1e-9)


def test_entropy_is_as_exact_where_the_softmax_saturates():
    logits = torch.tensor([[gap, 0.0, 0.0] for gap in (2.0, 9.0, 17.0, 30.0, 60.0)])
    found = Entropy().score(Activations(logits))
    # In double precision the softmax saturates at gaps of 37, where p·log p is all there is.
    expected = entropy(softmax(logits[:4].double().numpy(), axis=1), axis=1)
    np.testing.assert_allclose(found[:4], expected, rtol=1e-5)
    assert found[4].item() == pytest.approx(2 * np.exp(-60) * (60 + 1), rel=1e-5)


def test_energy_equals_scipy(logits):
    score = Energy(temperature=3).score(Activations(logits))
    np.testing.assert_allclose(score, -3 * logsumexp(logits.numpy() / 3, axis=1), rtol=1e-12)


@pytest.mark.parametrize("detector", [MaxSoftmax, Entropy, Energy])
def test_a_temperature_of_zero_is_refused(detector):
    with pytest.raises(ValueError, match="temperature must be above 0; got 0"):
        detector(temperature=0)


def test_temperature_finds_the_scale_that_the_labels_were_drawn_with():
    logits = torch.randn(40_000, 5) * 2
    labels = torch.distributions.Categorical(logits=logits).sample()
    detector = Temperature().fit([Activations(logits * 3, labels=labels)])
    assert detector.temperature.item() == pytest.approx(3, rel=0.03)


def test_temperature_is_found_again_on_held_out_data():
    logits = torch.randn(2000, 5)
    sure = Activations(logits * 9, labels=logits.argmax(1))
    unsure = Activations(logits * 9, labels=torch.randint(0, 5, (2000,)))
    detector = Temperature().fit([sure])
    assert detector.adjust([unsure]).temperature > 10
    again = MaxSoftmax(float(detector.temperature))
    torch.testing.assert_close(detector.score(sure), again.score(sure))


def test_an_unfitted_temperature_says_so():
    with pytest.raises(ValueError, match=r"Temperature is not fitted; call fit"):
        Temperature().score(Activations(torch.zeros(1, 2)))


def test_of_equal_logits_the_first_is_the_label_of_a_pixel():
    logits = torch.randint(-2, 3, (2, 6, 30, 20)).float()
    for some in (logits, logits[:1]):
        label, score = MaxLogit().answer(Activations(some))
        rows = some.permute(0, 2, 3, 1).reshape(-1, 6).numpy()
        np.testing.assert_array_equal(label, rows.argmax(1))
        np.testing.assert_array_equal(score, -rows.max(1))
