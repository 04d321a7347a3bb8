import warnings

import pytest
import torch
from torch import nn

from openset import networks
from openset.activations import Activations
from openset.detectors import Energy
from openset.extractors import perturb
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


def test_a_network_that_labels_pixels_gives_all_on_the_images_grid():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 3, 1))
    assert Tap(network, ["0"])(torch.rand(2, 1, 8, 8)).features.keys() == {"0"}
    seen = Tap(network, ["0", "penultimate"])(torch.rand(2, 1, 8, 8))
    assert seen.grid == (8, 8)
    assert seen.features["0"].shape == seen.features["penultimate"].shape == (2, 4, 8, 8)
    rows = seen.rows()
    weight, bias = seen.head
    mapped = rows.features["penultimate"] @ weight.T + bias
    torch.testing.assert_close(mapped, rows.logits, rtol=1e-4, atol=1e-5)


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


def test_a_large_batch_keeps_what_a_gradient_needs_piece_by_piece(network, monkeypatch):
    view, image = Perturb(Tap(network), Energy(), 0.01), torch.rand(5, 1, 12, 12)
    sizes, whole = [], view.both(image)
    network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    monkeypatch.setattr(perturb, "AT_ONCE", 2 * 12 * 12)
    for ours, theirs in zip(view.both(image), whole, strict=True):
        torch.testing.assert_close(ours.logits, theirs.logits)
        assert ours.features.keys() == theirs.features.keys()
    assert sizes == [2, 2, 1, 5]


def test_perturb_leaves_network_gradients_alone(network):
    Perturb(Tap(network), Energy(), 0.01)(torch.rand(2, 1, 12, 12))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_images_of_whole_numbers_are_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="divide them by 255"):
        Tap(network)(torch.zeros(2, 1, 2, 2, dtype=torch.uint8))


class Adds(nn.Module):
    """Changes what a layer gave in place, and runs another one twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 4, 3), nn.Softplus()
        self.fc = nn.Linear(4, 3)

    def forward(self, image):
        h = self.conv(image)
        h += 5
        h = self.act(self.act(h)).mean((2, 3))
        logits = self.fc(h)
        h.zero_()
        return logits


def test_what_a_layer_gave_is_kept_whatever_becomes_of_it():
    network, image = Adds().eval(), torch.rand(3, 1, 8, 8)
    tap = Tap(network, ["conv"])
    for _ in range(2):  # The second look averages at once.
        with torch.no_grad():
            seen = tap(image)
        torch.testing.assert_close(seen.features["conv"], network.conv(image).mean((2, 3)))
        by_hand = network.act(network.act(network.conv(image) + 5)).mean((2, 3))
        torch.testing.assert_close(seen.features["penultimate"], by_hand)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_maps_that_are_changed_in_place_are_kept_too(mode):
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 1)).eval()
    image = torch.rand(2, 1, 5, 5)
    tap = Tap(network, ["0", "penultimate"])
    for _ in range(2):
        with mode():
            seen = tap(image)
            torch.testing.assert_close(seen.features["0"], network[0](image))
            torch.testing.assert_close(seen.features["penultimate"], network[:2](image))


def test_all_runs_of_a_layer_stand_side_by_side():
    network, image = Adds().eval(), torch.rand(3, 1, 8, 8)
    seen = Tap(network, ["act"])(image).features["act"]
    once = network.act(network.conv(image) + 5)
    expected = torch.cat([once.mean((2, 3)), network.act(once).mean((2, 3))], 1)
    torch.testing.assert_close(seen, expected)


class Windows(nn.Module):
    """Maps `[N, H, W, D]` between its stages, merged two by two, as Swin has."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 6, 4, 4)
        self.first = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU())
        self.merge = nn.Linear(24, 12)
        self.second = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 3)

    def forward(self, image):
        x = self.first(self.embed(image).permute(0, 2, 3, 1))
        x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
        return self.head(self.norm(self.second(self.merge(x))).mean((1, 2)))


def test_maps_with_their_channels_last_are_averaged_over_space():
    network, image = Windows().eval(), torch.rand(2, 1, 32, 32)
    assert find_stages(network) == ("first", "norm")
    seen = Tap(network, ["embed", "first.2", "stage1", "stage2"])(image).features
    x = network.embed(image)
    torch.testing.assert_close(seen["embed"], x.mean((2, 3)))
    x = network.first(x.permute(0, 2, 3, 1))
    torch.testing.assert_close(seen["stage1"], x.mean((1, 2)))
    torch.testing.assert_close(seen["first.2"], seen["stage1"])
    assert seen["stage2"].shape == (2, 12)


def test_a_list_of_maps_stands_side_by_side_and_other_things_are_refused():
    class Branches(nn.Module):
        def forward(self, x):
            return [x, x[:, :, ::2, ::2] + 1]

    class Network(nn.Sequential):
        def forward(self, image):
            return self[1](self[0](image)[0].flatten(1))

    network = Network(Branches(), nn.Linear(4, 3))
    seen = Tap(network, ["0"])(torch.zeros(2, 1, 2, 2)).features["0"]
    assert torch.equal(seen, torch.tensor([[0.0, 1.0]] * 2))
    network[0].forward = lambda x: {0: x}
    with pytest.raises(ValueError, match="gave a dict, not a tensor; name a module inside it"):
        Tap(network, ["0"])(torch.zeros(2, 1, 2, 2))
    network.forward = lambda image: network[1](image.flatten(1))
    with pytest.raises(ValueError, match="did not run its layer '0'"):
        Tap(network, ["0"])(torch.zeros(2, 1, 2, 2))


def test_wrapped_networks_are_read_as_the_bare_one(network):
    image, plain = torch.rand(2, 1, 12, 12), Tap(network, ["stage1"])
    compiled = torch.compile(network.eval(), backend="eager")
    compiled(image)
    for wrapped in (compiled, nn.DataParallel(network)):
        tap = Tap(wrapped, ["stage1"])
        assert tap.state_dict().keys() == plain.state_dict().keys()
        expected = plain(image).features["stage1"]
        torch.testing.assert_close(tap(image).features["stage1"], expected)
    seen = Tap(compiled, ["_orig_mod.stage1"])(image)
    assert "_orig_mod.stage1" in seen.features


def test_torchscript_gives_logits_and_no_layers(network):
    image = torch.rand(2, 1, 12, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network.eval(), image)
    torch.testing.assert_close(Tap(traced)(image).logits, network(image))
    for layers in (["stage1"], ["penultimate"]):
        with pytest.raises(ValueError, match="TorchScript"):
            Tap(traced, layers)


def test_images_take_the_networks_precision(network):
    assert Tap(network)(torch.rand(2, 1, 12, 12).double()).logits.dtype == torch.float32
    assert Tap(network.double())(torch.rand(2, 1, 12, 12)).logits.dtype == torch.float64
    with pytest.raises(ValueError, match="images are a list; give a tensor"):
        Tap(network)([[0.5]])


def test_what_was_found_is_said_and_makes_the_tap_again():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Conv2d(4, 6, 3, 2), nn.Flatten(1))
    network = nn.Sequential(network[:2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    tap = Tap(network, ["stage1", "stage2"])
    told = {"layers": {"stage1": "0.0", "stage2": "0"}, "head": "3"}
    assert tap.settings() == told
    assert "layers=[stage1=0.0, stage2=0], head='3'" in repr(tap)
    again = Tap(network, **told)
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(again(image).features["stage1"], tap(image).features["stage1"])


def test_a_gradient_is_taken_in_inference_mode(network):
    image = torch.rand(3, 1, 12, 12)
    expected = Perturb(Tap(network), Energy(), 0.01)(image).logits
    with torch.inference_mode():
        inside = torch.rand(3, 1, 12, 12).copy_(image)
        seen = Perturb(Tap(network), Energy(), 0.01)(inside)
        torch.testing.assert_close(seen.logits, expected)
        made = networks.cnn(classes=4, channels=1, widths=(4, 6), hidden=8)
        with pytest.raises(ValueError, match="make it outside"):
            Perturb(Tap(made), Energy(), 0.01)(inside)
