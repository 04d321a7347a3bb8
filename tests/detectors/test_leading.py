import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

from openset.activations import Activations
from openset.detectors import Energy, MaxLogit, MaxSoftmax
from openset.detectors.leading import Leading
from openset.extractors.extract import finite


def by_class(logits):
    """The same rows as pixels of a map hold them, class by class."""
    return logits.T.contiguous().T


@pytest.fixture(params=[by_class, torch.Tensor.contiguous], ids=["by-class", "by-row"])
def lying(request):
    return request.param


@pytest.mark.parametrize(
    ("dtype", "rtol", "spread"),
    [(torch.float64, 1e-12, 9), (torch.float32, 1e-6, 4), (torch.float32, 1e-5, 30)],
)
def test_what_is_compared_equals_scipy(lying, dtype, rtol, spread):
    logits = lying(torch.randn(400, 7, dtype=dtype) * spread)
    x, leading = logits.double().numpy() / 3, Leading(logits, 3.0)
    others = np.sort(softmax(x, 1), 1)[:, :-1].sum(1)
    np.testing.assert_array_equal(leading.label, x.argmax(1))
    np.testing.assert_array_equal(leading.top, logits.amax(1))
    np.testing.assert_allclose(leading.unsure, others, rtol=rtol)
    np.testing.assert_allclose(leading.log_sum, logsumexp(x, 1) - x.max(1), rtol=rtol, atol=rtol)
    seen = np.array([entropy(row) for row in softmax(x, 1)])
    likely = others > 1e-12  # Where scipy's own softmax does not saturate.
    np.testing.assert_allclose(leading.entropy[likely], seen[likely], rtol=10 * rtol)


def test_what_is_asked_first_does_not_matter():
    logits = by_class(torch.randn(50, 5))
    first, other = Leading(logits), Leading(logits)
    found = first.unsure, first.log_sum, first.label
    again = other.label, other.log_sum, other.unsure
    for a, b in zip(found, reversed(again), strict=True):
        assert torch.equal(a, b)
    assert (first.below <= 0).all()
    assert (first.below == 0).any(0).all()


def test_the_smallest_step_decides_and_of_equal_ones_the_first(lying):
    logits = torch.randint(1, 5, (3000, 6)).float() * 2.0 ** -torch.randint(0, 90, (3000, 1))
    logits = torch.where(torch.rand(3000, 1) < 0.5, logits, -logits)
    step = torch.nextafter(logits, torch.full_like(logits, 9.0))
    logits = lying(torch.where(torch.rand(logits.shape) < 0.3, step, logits))
    np.testing.assert_array_equal(Leading(logits).label, logits.numpy().argmax(1))
    ties = Leading(lying(torch.zeros(4, 200)))
    assert ties.label.tolist() == [0] * 4
    np.testing.assert_allclose(ties.unsure, 1 - 1 / 200, rtol=1e-6)
    np.testing.assert_allclose(ties.entropy, np.log(200), rtol=1e-6)


def test_one_class_is_sure_and_far_others_weigh_nothing(lying):
    one = Leading(lying(torch.randn(5, 1)))
    assert one.unsure.tolist() == one.entropy.tolist() == one.log_sum.tolist() == [0] * 5
    far = Leading(lying(torch.tensor([[0.0, 3e38, -torch.inf], [1.0, -3e38, 0.0]])))
    assert far.label.tolist() == [1, 0]
    np.testing.assert_allclose(far.unsure, [0, 1 / (1 + np.e)], rtol=1e-6)


def test_gradients_are_those_of_the_softmax(lying):
    x = torch.randn(20, 4, dtype=torch.float64)

    def ours(x, name):
        return getattr(Leading(lying(x), 2.0), name)

    expected = {
        "unsure": lambda x: 1 - (x / 2).softmax(1).amax(1),
        "entropy": lambda x: torch.distributions.Categorical(logits=x / 2).entropy(),
        "log_sum": lambda x: (x / 2).logsumexp(1) - x.amax(1) / 2,
    }
    for name, plain in expected.items():
        here, there = x.clone().requires_grad_(), x.clone().requires_grad_()
        ours(here, name).sum().backward()
        plain(there).sum().backward()
        torch.testing.assert_close(here.grad, there.grad, msg=name)


@pytest.mark.parametrize("detector", [MaxSoftmax(), Energy(), MaxLogit()])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_map_that_is_not_finite_is_refused(detector, bad):
    logits = torch.randn(2, 3, 100, 90)
    logits[1, 2, 50, 50] = bad
    with pytest.raises(ValueError, match=r"hold NaN or infinite values in 1 of 18000 samples"):
        detector.answer(Activations(logits))


def test_maps_are_judged_together_as_alone():
    maps = Activations(torch.randn(3, 5, 100, 90), {"stage1": torch.randn(3, 2, 100, 90)})
    label, score = MaxSoftmax().answer(maps)
    alone = [MaxSoftmax().answer(maps[i : i + 1]) for i in range(3)]
    assert torch.equal(label, torch.cat([one for one, _ in alone]))
    assert torch.equal(score, torch.cat([one for _, one in alone]))
    assert torch.equal(label, maps.logits.argmax(1).flatten())


def test_large_numbers_are_finite_though_their_sum_is_not():
    for dtype, large in ((torch.float32, 3e38), (torch.float16, 6e4), (torch.bfloat16, 3e38)):
        x = torch.full((4, 9), large, dtype=dtype)
        assert finite(x, "the numbers") is x
