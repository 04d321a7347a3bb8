import math

import pytest
import torch

from openset.activations import Activations
from openset.detectors import BIN, BINC


def test_bin_is_one_minus_the_largest_sigmoid():
    logits = torch.randn(20, 4, dtype=torch.float64) * 3
    expected = [1 - max(1 / (1 + math.exp(-p)) for p in row) for row in logits.tolist()]
    assert BIN().score(Activations(logits)).tolist() == pytest.approx(expected, abs=1e-15)


def test_saturated_answers_still_rank():
    rows = Activations(torch.tensor([[60.0, 0.0], [50.0, 0.0], [20.0, 0.0]]))
    assert BIN().score(rows).diff().min() > 0


def test_binc_scores_by_the_sigmoids_and_labels_by_the_softmax():
    logits, binary = torch.randn(9, 4), torch.randn(9, 4)
    rows = Activations(logits, {"binary": binary})
    torch.testing.assert_close(BINC().score(rows), 1 - binary.sigmoid().max(1).values)
    assert BINC().class_scores(rows).argmax(1).equal(logits.argmax(1))


def test_a_network_without_the_sigmoid_head():
    with pytest.raises(ValueError, match="unknown layer 'binary'"):
        BINC().score(Activations(torch.zeros(1, 2)))
