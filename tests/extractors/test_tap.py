import pytest
import torch
from torch import nn

from openset import networks
from openset.activations import Activations
from openset.detectors import Energy
from openset.extractors.perturb import Perturb
from openset.extractors.tap import Tap
from openset.networks.layers import find_head, find_stages


@pytest.fixture
def network():
    return networks.cnn(classes=4, channels=1, widths=(4, 6), hidden=8)


def test_records_stages_penultimate_and_logits(network):
    image = torch.rand(3, 1, 12, 12)
    seen = Tap(network, network.stages)(image)
    assert {name: tuple(x.shape) for name, x in seen.features.items()} == {
        "stage1": (3, 4),
        "stage2": (3, 6),
        "penultimate": (3, 8),
    }
    torch.testing.assert_close(seen.logits, network.eval()(image))
    weight, bias = seen.head
    torch.testing.assert_close(seen.features["penultimate"] @ weight.T + bias, seen.logits)


def test_pools_feature_maps_by_their_mean(network):
    image = torch.rand(2, 1, 12, 12)
    network.eval()
    x = network.stage1(network.stem(network.normalize(image)))
    seen = Tap(network, ["stage1"])(image)
    torch.testing.assert_close(seen.features["stage1"], x.mean((2, 3)))


def test_leaves_no_hook_even_after_an_error(network):
    tap = Tap(network, ["stage1"])
    with pytest.raises(ValueError, match="channel"):
        tap(torch.rand(2, 3, 12, 12))
    assert not any(module._forward_hooks for module in network.modules())


def test_runs_in_evaluation_mode_and_gives_the_mode_back(network):
    network.train()
    network.stage2.eval()
    before = network.stage1[1].running_mean.clone()
    Tap(network)(torch.rand(5, 1, 12, 12))
    assert torch.equal(network.stage1[1].running_mean, before)
    assert network.training
    assert network.stage1.training
    assert not network.stage2.training


def test_names_the_nearest_layer(network):
    with pytest.raises(ValueError, match=r"unknown layer 'stage9'.*stage1"):
        Tap(network, ["stage9"])
    with pytest.raises(ValueError, match=r"unknown layer 'hed'.*head"):
        Tap(network, head="hed")


def test_stage_names_stand_for_the_paths_of_a_foreign_network():
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer1 = nn.Conv2d(1, 3, 1)
            self.layer2 = nn.Conv2d(3, 5, 1)
            self.fc = nn.Linear(5, 2)

        def forward(self, x):
            return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))

    network = Foreign()
    assert find_stages(network) == ("layer1", "layer2")
    assert find_head(network) == "fc"
    seen = Tap(network, ["stage2", "layer1"])(torch.rand(2, 1, 4, 4))
    assert list(seen.features) == ["stage2", "layer1", "penultimate"]
    assert seen.features["stage2"].shape == (2, 5)


def test_a_network_that_labels_pixels_keeps_the_grid_of_its_logits():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 3, 1))
    assert Tap(network, ["0"])(torch.rand(2, 1, 8, 8)).features.keys() == {"0"}
    seen = Tap(network, ["0", "penultimate"])(torch.rand(2, 1, 8, 8))
    assert seen.grid == (4, 4)
    assert seen.features["0"].shape == seen.features["penultimate"].shape == (2, 4, 4, 4)
    rows = seen.rows()
    weight, bias = seen.head
    torch.testing.assert_close(rows.features["penultimate"] @ weight.T + bias, rows.logits)


def test_no_head_is_claimed_where_something_follows_it():
    seen = Tap(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1)))(torch.rand(2, 1, 2, 2))
    assert seen.head is None


def test_refuses_what_is_no_logits():
    with pytest.raises(ValueError, match=r"the network gave a tensor \[2, 1, 2\]; expected logits"):
        Tap(nn.Flatten(2))(torch.rand(2, 1, 1, 2))


def test_perturb_takes_the_step_of_the_sign_that_lowers_the_score(network):
    tap, image = Tap(network), torch.rand(3, 1, 12, 12)
    copy = image.clone().requires_grad_()
    Energy()(tap(copy)).sum().backward()
    step = torch.where(copy.grad >= 0, 1.0, -1.0) * 0.01
    seen = Perturb(tap, Energy(), 0.01)(image)
    torch.testing.assert_close(seen.logits, network.eval()(image - step), rtol=1e-4, atol=1e-5)
    assert (Energy()(seen) < Energy()(tap(image))).all()


def test_perturb_steps_up_where_the_gradient_is_zero_and_divides_by_the_spread():
    def score(seen: Activations):
        return seen.logits.sum(1) * 0

    network = nn.Flatten()
    seen = Perturb(Tap(network), score, 0.1, std=torch.tensor([0.5]))(torch.ones(1, 1, 1, 2))
    torch.testing.assert_close(seen.logits, torch.full((1, 2), 0.8))


def test_perturb_leaves_network_gradients_alone(network):
    Perturb(Tap(network), Energy(), 0.01)(torch.rand(2, 1, 12, 12))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_images_of_whole_numbers_are_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="divide them by 255"):
        Tap(network)(torch.zeros(2, 1, 2, 2, dtype=torch.uint8))
