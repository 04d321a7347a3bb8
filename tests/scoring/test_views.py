"""One look for all detectors: nothing is computed twice and nothing changes by sharing."""

import pytest
import torch
from torch import nn

from openset.detectors import ODIN, Energy, MaxSoftmax
from openset.extractors.tap import Tap
from openset.scoring.answers import answers
from openset.scoring.scored import joined


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def counted(network: nn.Module) -> list[int]:
    """Grows by the batch size of each forward pass."""
    passes: list[int] = []
    network.register_forward_hook(lambda module, args, output: passes.append(len(args[0])))
    return passes


def score(tap, detectors, data):
    """All that each detector says of all images."""
    parts = {name: [] for name in detectors}
    for answer in answers(tap, detectors, data):
        parts[answer.detector].append(answer.scored)
    return {name: joined(found) for name, found in parts.items()}


DETECTORS = {"msp": MaxSoftmax(), "energy": Energy(), "odin": ODIN(epsilon=0.05)}


def test_odin_lends_its_plain_pass_to_the_others(network):
    data = [(torch.rand(5, 1, 8, 8), torch.arange(5) % 3) for _ in range(2)]
    passes = counted(network)
    score(Tap(network, head="3"), DETECTORS, data)
    assert passes == [5, 5, 5, 5]


@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_a_score_does_not_depend_on_who_shares_the_look(network, epsilon):
    data = [(torch.rand(5, 1, 8, 8), torch.arange(5) % 3)]
    detectors = {**DETECTORS, "odin": ODIN(epsilon=epsilon), "further": ODIN(epsilon=0.2)}
    together = score(Tap(network), detectors, data)
    assert list(together) == list(detectors)
    for name, detector in detectors.items():
        alone = score(Tap(network), {name: detector}, data)[name]
        torch.testing.assert_close(together[name].score, alone.score)
        assert together[name].predicted.equal(alone.predicted)
        assert together[name].label.equal(alone.label)


class Contrast(nn.Module):
    """Stretches each image to 1, which makes NaN of a black one."""

    def forward(self, x):
        return x / x.amax((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("names", [["odin"], ["msp"], ["msp", "energy", "odin"]])
def test_bad_logits_are_named_by_their_batch(network, names):
    data = [(torch.rand(4, 1, 8, 8), torch.zeros(4)) for _ in range(2)]
    data[1][0][2] = 0
    tap = Tap(nn.Sequential(Contrast(), network), head="1.3")
    with pytest.raises(ValueError, match=r"^batch 1: the network's logits .* in 1 of 4 samples"):
        score(tap, {name: DETECTORS[name] for name in names}, data)


def test_whatever_is_wrong_with_a_batch_names_it(network):
    data = [(torch.rand(4, 1, side, side), torch.zeros(4)) for side in (8, 8)]
    data[1][0][0] = torch.nan
    with pytest.raises(ValueError, match=r"^batch 1: NaN"):
        score(Tap(network), DETECTORS, data)
