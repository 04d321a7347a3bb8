import math

import pytest
import torch

from openset.objectives.mmce import mmce


def slow_mmce(probability, correct, bandwidth=0.4):
    """Kumar et al. 2018, the weighted estimator, pair by pair; each pair averaged once."""

    def kernel(a, b):
        return math.exp(-abs(a - b) / bandwidth)

    right = [p for p, c in zip(probability, correct, strict=True) if c]
    wrong = [p for p, c in zip(probability, correct, strict=True) if not c]
    if not right or not wrong:
        return 0.0
    total = 0.0
    for a in right:
        for b in right:
            total += (1 - a) * (1 - b) * kernel(a, b) / len(right) ** 2
    for a in wrong:
        for b in wrong:
            total += a * b * kernel(a, b) / len(wrong) ** 2
    for a in right:
        for b in wrong:
            total -= 2 * (1 - a) * b * kernel(a, b) / (len(right) * len(wrong))
    return math.sqrt(total)


@pytest.mark.parametrize("bandwidth", [0.1, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_sums_of_the_paper(seed, bandwidth):
    generator = torch.Generator().manual_seed(seed)
    probability = torch.rand(17, generator=generator, dtype=torch.float64)
    correct = torch.rand(17, generator=generator) < 0.6
    expected = slow_mmce(probability.tolist(), correct.tolist(), bandwidth)
    assert mmce(probability, correct, bandwidth).item() == pytest.approx(expected, abs=1e-12)


def test_columns_are_independent():
    probability, correct = torch.rand(9, 4), torch.rand(9, 4) < 0.5
    columns = [mmce(probability[:, k], correct[:, k]) for k in range(4)]
    torch.testing.assert_close(mmce(probability, correct), torch.stack(columns))


def test_does_not_change_with_repeated_rows():
    # A second division by the number of pairs, as in the published code, would fail here.
    probability, correct = torch.rand(8, dtype=torch.float64), torch.arange(8) % 3 > 0
    twice = mmce(probability.repeat(2), correct.repeat(2))
    torch.testing.assert_close(twice, mmce(probability, correct))


@pytest.mark.parametrize("answer", [True, False])
def test_one_kind_of_answer_is_zero_with_zero_gradient(answer):
    probability = torch.rand(6, requires_grad=True)
    loss = mmce(probability, torch.full((6,), answer))
    loss.backward()
    assert loss.item() == 0
    assert probability.grad is not None
    assert probability.grad.abs().max() == 0


def test_no_nan_at_zero():
    # Right answers at 1 and wrong ones at 0 are calibrated exactly.
    probability = torch.tensor([1.0, 0.0], requires_grad=True)
    loss = mmce(probability, torch.tensor([True, False]))
    loss.backward()
    assert loss.item() == 0
    assert probability.grad is not None
    assert probability.grad.isfinite().all()


def test_gradient():
    probability = torch.rand(7, dtype=torch.float64, requires_grad=True)
    correct = torch.arange(7) % 2 == 0
    assert torch.autograd.gradcheck(lambda r: mmce(r, correct), (probability,))
