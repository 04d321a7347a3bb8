import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from openset.detectors import LearnedConfidence as Detector
from openset.extractors.tap import Tap
from openset.networks import Normalize, cnn
from openset.objectives import LearnedConfidence
from openset.objectives.learned_confidence import hinted_loss
from openset.training.loop import train

IMAGE = torch.linspace(0, 1, 320).sin().view(5, 1, 8, 8)
LABEL = torch.tensor([0, 2, 1, 1, 0])


def network():
    return cnn(classes=3, channels=1, widths=(4, 8), hidden=16)


def test_the_loss_mixes_the_prediction_with_the_label():
    logits, confidence = torch.randn(5, 3) * 3, torch.randn(5) * 3
    hinted = torch.tensor([True, False, True, False, True])
    found = hinted_loss(logits, confidence, LABEL, hinted)
    for i, y in enumerate(LABEL.tolist()):
        p = logits[i].softmax(0)[y].item()
        c = confidence[i].sigmoid().item() if hinted[i] else 1.0
        assert found[i].item() == pytest.approx(-math.log(c * p + (1 - c)), rel=1e-4)


def test_it_is_finite_where_the_label_has_no_probability_and_the_confidence_is_0_or_1():
    logits = torch.tensor([[0.0, 900.0, 0.0]]).repeat(3, 1).requires_grad_()
    confidence = torch.tensor([-900.0, 900.0, 0.0], requires_grad=True)
    loss = hinted_loss(logits, confidence, torch.zeros(3, dtype=torch.long), torch.ones(3).bool())
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
    assert confidence.grad.isfinite().all()


def test_full_confidence_is_plain_cross_entropy():
    objective = LearnedConfidence(network()).eval()
    nn.init.zeros_(objective.network.confidence.weight)
    nn.init.constant_(objective.network.confidence.bias, 60.0)
    ((_, loss),) = objective.step(IMAGE, LABEL)
    torch.testing.assert_close(loss, F.cross_entropy(objective.logits(IMAGE), LABEL))


def test_the_price_falls_below_the_budget_and_rises_above_it():
    for bias, factor in ((9.0, 1 / 1.01), (-9.0, 1 / 0.99)):
        objective = LearnedConfidence(network(), weight=0.2)
        nn.init.constant_(objective.network.confidence.bias, bias)
        list(objective.step(IMAGE, LABEL))
        assert objective.price.item() == pytest.approx(0.2 * factor)
        assert objective.figures()["hint_price"] == pytest.approx(0.2 * factor)


@pytest.fixture(scope="module")
def overlapping():
    """A classifier of two clouds that overlap, with points that it has not seen."""

    def points(seed):
        generator = torch.Generator().manual_seed(seed)
        label = torch.arange(2000) % 2
        x = torch.randn(2000, 1, 1, 2, generator=generator)
        x[..., 0] += 3 * label.view(-1, 1, 1) - 1.5
        return (0.5 + x / 16).clamp(0, 1), label

    torch.manual_seed(0)
    layers = [
        Normalize([0.5], [1 / 16]),
        nn.Flatten(),
        nn.Linear(2, 32),
        nn.ReLU(),
        nn.Linear(32, 2),
    ]
    objective = LearnedConfidence(nn.Sequential(*layers), budget=0.15)
    how = {"epochs": 40, "batch_size": 50, "lr": 0.05, "device": "cpu", "schedule": "constant"}
    return train(objective, [points(0)], **how), objective, points(1)


def test_the_price_of_hints_settles_at_the_budget(overlapping):
    trained, objective, (x, _) = overlapping
    cost = Detector()(Tap(trained, ["confidence"])(x)).mean().item()
    assert cost == pytest.approx(objective.budget, abs=0.05)


def test_mistakes_are_less_confident_than_hits(overlapping):
    trained, _, (x, label) = overlapping
    seen = Tap(trained, ["confidence"])(x)
    wrong = seen.logits.argmax(1) != label
    assert 0.02 < wrong.float().mean() < 0.2
    assert roc_auc_score(wrong, Detector()(seen).detach()) > 0.8


def test_the_score_is_minus_log_c_and_a_step_lowers_it():
    tap = Tap(LearnedConfidence(network()).network, ["confidence"])
    still, moving = Detector(), Detector(epsilon=0.01)
    c = tap(IMAGE).features["confidence"].squeeze(1).sigmoid()
    torch.testing.assert_close(still(tap(IMAGE)), -c.log())
    assert still.view(tap) is tap
    assert (moving(moving.view(tap)(IMAGE)) < still(tap(IMAGE))).all()


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="budget and weight must be above 0; got 0"):
        LearnedConfidence(network(), budget=0)
