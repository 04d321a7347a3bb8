import torch
from torch import nn
from torch.nn import functional as F

from openset.detectors import ODIN, MaxSoftmax
from openset.extractors.tap import Tap


def network():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).double()


def paper(model, image, temperature, epsilon, std):
    """Liang et al., equations 1 and 2, on one image at a time; ε divided by the channels' std."""
    scores = []
    for x in image:
        x = x[None].clone().requires_grad_()
        logits = model(x) / temperature
        F.cross_entropy(logits, logits.argmax(1)).backward()
        sign = torch.where(x.grad >= 0, 1.0, -1.0).double()
        moved = x - epsilon * sign / torch.tensor(std).view(-1, 1, 1)
        scores.append(1 - (model(moved) / temperature).softmax(1).max())
    return torch.stack(scores).detach()


def test_equals_the_formula_of_the_paper():
    model, image = network(), torch.rand(6, 2, 6, 6, dtype=torch.float64)
    for temperature, epsilon, std in [(1000, 0.0014, (1.0, 1.0)), (2, 0.05, (0.2, 0.5))]:
        odin = ODIN(temperature, epsilon, std)
        score = odin(odin.view(Tap(model))(image))
        expected = paper(model, image, temperature, epsilon, std)
        torch.testing.assert_close(score, expected, rtol=0, atol=1e-9)


def test_without_a_step_it_is_the_softened_softmax():
    model, image = network(), torch.rand(6, 2, 6, 6, dtype=torch.float64)
    odin, tap = ODIN(10, 0.0), Tap(model)
    assert odin.view(tap) is tap
    torch.testing.assert_close(odin(odin.view(tap)(image)), MaxSoftmax(10)(tap(image)))


def test_the_step_makes_the_network_surer():
    model, image = network(), torch.rand(6, 2, 6, 6, dtype=torch.float64)
    odin, tap = ODIN(10, 0.01), Tap(model)
    assert (odin(odin.view(tap)(image)) < odin(tap(image))).all()
