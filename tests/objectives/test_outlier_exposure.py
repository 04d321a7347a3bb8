"""Real images as outliers: which pieces are shown, and what the network is told of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.activations import UNKNOWN
from openset.benchmark import protocol
from openset.data import Adapter, load_images
from openset.objectives import OutlierExposure
from openset.objectives.synthetic_outliers import uniform_divergence

from tiny_protocol import TINY  # isort: skip


def digits(size):
    found = load_images("digits:test", Adapter(size, 1, resize="shorter"))
    return found.images.float() / 255


def test_the_loss_is_that_of_foreign_images_of_the_training_size():
    network = nn.Sequential(nn.Conv2d(1, 3, (8, 12)), nn.Flatten())
    objective = OutlierExposure(network, "digits:test", weight=0.5, count=5)
    image, label = torch.rand(4, 1, 8, 12), torch.arange(4) % 3
    torch.manual_seed(1)
    ((_, loss),) = objective.step(image, label)
    torch.manual_seed(1)
    shown = objective.draw(5, (8, 12), None)
    foreign = digits((8, 12))
    assert all((foreign == one).flatten(1).all(1).any() for one in shown)
    expected = F.cross_entropy(network(image), label)
    expected = expected + 0.5 * uniform_divergence(network(shown)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert objective.settings()["data"] == "digits:test"


def test_pieces_of_foreign_images_are_pasted_where_pixels_are_labelled():
    network = nn.Conv2d(1, 3, 3, padding=1)
    objective = OutlierExposure(network, "digits:test", sides=(0.25, 0.5))
    image, label = torch.full((3, 1, 32, 40), 0.5), torch.zeros(3, 32, 40, dtype=torch.long)
    seen = []
    network.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    foreign = digits((16, 16))
    for _ in range(4):
        list(objective.step(image, label))
        piece = (seen[-1] != 0.5)[0, 0]
        assert 4 < int(piece.sum()) <= 16 * 16
    assert objective.samples(6).shape == (6, 1, 16, 16)
    assert all((foreign == one).flatten(1).all(1).any() for one in objective.samples(6))
    small = objective.draw(1, (8, 8), torch.Generator().manual_seed(0))
    windows = foreign.unfold(2, 8, 1).unfold(3, 8, 1)
    assert (windows == small[0, 0]).all(-1).all(-1).any()


def test_data_are_needed_and_must_not_be_those_of_the_test(tmp_path):
    objective = OutlierExposure(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="write outlier-exposure:data=…"):
        list(objective.step(torch.rand(2, 1, 2, 2), torch.tensor([0, UNKNOWN + 1])))
    path = tmp_path / "own.toml"
    told = 'seeds = 2\nobjective = "outlier-exposure:data=gaussian-noise"'
    path.write_text(TINY.replace("seeds = 2", told))
    with pytest.raises(ValueError, match="gaussian-noise is an unknown set of the test"):
        protocol.load(str(path))
