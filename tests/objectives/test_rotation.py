import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset import networks
from openset.objectives import RotPred


@pytest.fixture
def objective():
    torch.manual_seed(0)
    return RotPred(networks.cnn(3, 1, widths=(4, 8), hidden=8), weight=0.5).eval()


def test_losses_are_of_the_class_and_of_the_turn(objective):
    image, label = torch.rand(5, 1, 8, 8), torch.arange(5) % 3
    (first, loss), (second, turn) = objective.step(image, label)
    assert (first, second) == ("network", "turn")
    features = []
    handle = objective.network.head.register_forward_hook(lambda _, x, __: features.append(x[0]))
    classes = F.cross_entropy(objective.network(image), label)
    total = 0.0
    for k in range(4):
        objective.network(torch.rot90(image, k, (2, 3)))
        way = torch.full((5,), k)
        total = total + F.cross_entropy(objective.turn(features[-1]), way) / 4
    handle.remove()
    torch.testing.assert_close(turn, total)
    torch.testing.assert_close(loss, classes + 0.5 * total)


def test_each_loss_moves_its_own_learner_alone(objective):
    image, label = torch.rand(5, 1, 8, 8), torch.arange(5) % 3
    for learner, loss in objective.step(image, label):
        objective.zero_grad()
        loss.backward(retain_graph=True)
        moved = {n.partition(".")[0] for n, p in objective.named_parameters() if p.grad is not None}
        assert moved == {learner}


def test_the_network_that_is_kept_is_the_one_given(objective):
    assert objective.finish([]) is objective.network


def test_what_cannot_be_turned_is_refused(objective):
    with pytest.raises(ValueError, match="only square ones can be turned"):
        list(objective.step(torch.rand(2, 1, 8, 9), torch.zeros(2).long()))
    with pytest.raises(ValueError, match=r"is no nn\.Linear"):
        RotPred(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten(), nn.Identity()))
