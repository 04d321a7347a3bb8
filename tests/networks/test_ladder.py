"""Ladder networks: grids, stages, spec, and the memory that checkpointing saves."""

import json
import re

import pytest
import torch

from openset.extractors.tap import Tap
from openset.networks import DENSE, build, from_spec, load_weights

WIDTHS = {"ladder-small": (32, 32, 64, 128), "ladder-densenet-121": (256, 512, 1024, 1024)}
PENULTIMATE = {"ladder-small": 32, "ladder-densenet-121": 128}


@pytest.fixture(scope="module", params=sorted(DENSE))
def network(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield build(request.param, classes=5).eval()


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 96), (45, 60)])
def test_logits_and_layers_lie_on_the_images_grid(network, size):
    name = network.spec["name"]
    tap = Tap(network, layers=[*(f"stage{i}" for i in (1, 2, 3, 4)), "penultimate"])
    seen = tap(torch.rand(1, 3, *size))
    assert seen.logits.shape == (1, 5, *size)
    widths = [x.shape[1] for layer, x in seen.features.items() if layer != "penultimate"]
    assert widths == list(WIDTHS[name])
    assert seen.features["penultimate"].shape == (1, PENULTIMATE[name], *size)


def test_ladder_densenet_has_as_many_weights_as_the_papers_parts():
    """DenseNet-121's encoder by formula, then pyramid, rungs and head from research/peers.md."""

    def conv(inputs, outputs, side=1):
        return 2 * inputs + inputs * outputs * side**2  # Its batch norm comes first.

    count, width = 3 * 64 * 49 + 2 * 64, 64
    skips = []
    for i, layers in enumerate((6, 12, 24, 16)):
        for _ in range(layers):
            count += conv(width, 128) + conv(128, 32, 3)
            width += 32
        skips.append(width)
        if i < 3:
            count += conv(width, width // 2)
            width //= 2
    count += conv(1024, 512) + 4 * conv(512, 128) + conv(1024, 512)
    for inputs, skip, outputs in ((512, 1024, 256), (256, 512, 256), (256, 256, 128)):
        count += conv(skip, inputs) + conv(inputs, outputs, 3)
    count += 2 * 128 + 128 * 19 + 19
    network = build("ladder-densenet-121", classes=19)
    assert sum(p.numel() for p in network.parameters()) == count


def test_from_spec_makes_it_again_after_json(network):
    again = from_spec(json.loads(json.dumps(network.spec)))
    again.load_state_dict(network.state_dict())
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again.eval()(image), network(image))


def gradients(network, image, generator_seed=0):
    torch.manual_seed(generator_seed)
    network.train().zero_grad()
    network(image).logsumexp(1).sum().backward()
    state = {name: x.clone() for name, x in network.state_dict().items()}
    return {name: p.grad.clone() for name, p in network.named_parameters()}, state


def test_checkpointing_changes_neither_gradients_nor_statistics(network):
    image = torch.rand(2, 3, 64, 64)
    spec = {**network.spec, "checkpoint": True}
    lean, plain = from_spec(spec), from_spec(network.spec)
    lean.load_state_dict(network.state_dict())
    plain.load_state_dict(network.state_dict())
    expected, state = gradients(plain, image)
    found, its_state = gradients(lean, image)
    assert all(grad.abs().sum() > 0 for grad in expected.values())
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, msg=name)
    for name, value in state.items():
        torch.testing.assert_close(its_state[name], value, msg=name)


def stored_bytes(network, image):
    """Bytes that the forward pass keeps for the backward pass, each memory counted once."""
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = network.train()(image)
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    del output
    return sum(s.nbytes() for key, s in kept.items() if key not in weights)


def test_checkpointing_stores_less(network):
    image = torch.rand(2, 3, 64, 64)
    lean = from_spec({**network.spec, "checkpoint": True})
    plain = from_spec(network.spec)
    assert stored_bytes(lean, image) < 0.5 * stored_bytes(plain, image)


def test_mixed_precision_in_channels_last(network):
    image = torch.rand(1, 3, 64, 64)
    last = from_spec(network.spec).to(memory_format=torch.channels_last).eval()
    last.load_state_dict(network.state_dict())
    with torch.inference_mode():
        expected = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = last(image.contiguous(memory_format=torch.channels_last))
    scale = expected.abs().max()
    torch.testing.assert_close(half.float() / scale, expected / scale, rtol=0, atol=0.1)


def test_a_network_of_segmentation_models_pytorch_is_tapped():
    pytest.importorskip("segmentation_models_pytorch")
    network = build("smp:unet,encoder=resnet18", classes=4).eval()
    tap = Tap(network, layers=[*network.stages[:2], "penultimate"])
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        seen = tap(image)
        assert seen.logits.equal(network(image))
    assert seen.logits.shape == (1, 4, 64, 96)
    assert all(x.shape[2:] == (64, 96) for x in seen.features.values())
    assert {*network.stages[:2], "penultimate"} == seen.features.keys()


def torchvisions(blocks=(6, 12, 24, 16), growth=32, prefix="features."):
    """A made-up state of DenseNet-121 under torchvision's names, filled with numbers from 7 on."""
    state, width = {}, 2 * growth

    def norm(name, size):
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{prefix}{name}.{part}"] = torch.full((size,), 7.0 + len(state))
        state[f"{prefix}{name}.num_batches_tracked"] = torch.tensor(7 + len(state))

    def conv(name, inputs, outputs, side):
        shape = (outputs, inputs, side, side)
        state[f"{prefix}{name}.weight"] = torch.full(shape, 7.0 + len(state))

    conv("conv0", 3, width, 7)
    norm("norm0", width)
    for i, layers in enumerate(blocks, 1):
        for j in range(1, layers + 1):
            layer = f"denseblock{i}.denselayer{j}."
            norm(layer + "norm1", width)
            conv(layer + "conv1", width, 4 * growth, 1)
            norm(layer + "norm2", 4 * growth)
            conv(layer + "conv2", 4 * growth, growth, 3)
            width += growth
        if i < len(blocks):
            norm(f"transition{i}.norm", width)
            conv(f"transition{i}.conv", width, width // 2, 1)
            width //= 2
    norm("norm5", width)
    state["classifier.weight"], state["classifier.bias"] = (
        torch.zeros(1000, width),
        torch.zeros(1000),
    )
    return state


def test_ladder_densenet_takes_the_weights_of_torchvisions(tmp_path):
    state = torchvisions()
    network = build("ladder-densenet-121", classes=5)
    before = {key: x.clone() for key, x in network.state_dict().items()}
    torch.save(state, tmp_path / "densenet121.pth")
    load_weights(network, tmp_path / "densenet121.pth")
    after = network.state_dict()
    kept = {key for key in after if torch.equal(after[key], before[key])}
    assert {key.partition(".")[0] for key in kept} <= {"pyramid", "rungs", "last", "head"}
    given = {key: x for key, x in state.items() if key.startswith("features.")}
    # Each tensor of the file stands in exactly one place.
    filled = [key for key in after if key not in kept and not key.startswith("normalize")]
    numbers = [float(after[key].flatten()[0]) for key in filled]
    assert sorted(numbers) == [float(x.flatten()[0]) for x in given.values()]
    for own, theirs in {
        "stem.0.weight": "conv0.weight",
        "stem.1.running_mean": "norm0.running_mean",
        "stage1.0.0.new.0.bias": "denseblock1.denselayer1.norm1.bias",
        "stage3.7.2.new.5.weight": "denseblock3.denselayer24.conv2.weight",
        "stage4.1.0.new.3.running_var": "denseblock4.denselayer4.norm2.running_var",
        "transitions.1.0.weight": "transition2.norm.weight",
        "transitions.2.2.weight": "transition3.conv.weight",
        "pyramid.before.0.num_batches_tracked": "norm5.num_batches_tracked",
    }.items():
        assert torch.equal(after[own], given[f"features.{theirs}"]), own
    assert after["normalize.mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert after["normalize.std"].flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_weights_in_the_old_spelling_and_behind_a_prefix_and_others_of_ones_own(tmp_path):
    """`norm.1` is how the published file of torchvision spells `norm1`."""
    spelled = {
        re.sub(r"(norm|conv)([12])\.", r"\1.\2.", key) if "denselayer" in key else key: x
        for key, x in torchvisions(prefix="module.features.").items()
    }
    assert any(".conv.2." in key for key in spelled)
    network = build("ladder-densenet-121", classes=5)
    torch.save(spelled, tmp_path / "old.pth")
    first = load_weights(network, tmp_path / "old.pth").state_dict()
    again = build("ladder-densenet-121", classes=5)
    torch.save(first, tmp_path / "own.pth")
    assert load_weights(again, tmp_path / "own.pth").state_dict().keys() == first.keys()
    assert all(torch.equal(x, first[key]) for key, x in again.state_dict().items())
    spelled["module.features.extra.weight"] = torch.zeros(1)
    torch.save(spelled, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"1 unexpected \(extra.weight\)"):
        load_weights(network, tmp_path / "other.pth")
