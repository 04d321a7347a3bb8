"""Outliers pasted into label maps: equation 4 by a slow loop, and where its gradient goes."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.activations import UNKNOWN, VOID
from openset.errors import Paused
from openset.networks import ladder_small
from openset.objectives import CrossEntropy
from openset.objectives.flow_outliers import FlowOutliers
from openset.objectives.gan_outliers import GANOutliers
from openset.objectives.noise_outliers import NoiseOutliers
from openset.objectives.patches import Patches, sides
from openset.objectives.synthetic_outliers import pasted_losses
from openset.training.loop import accuracy, train

CLASSES = 3


def segmenter():
    """A network of three classes for pixels, without batch norm, sure of what it says."""
    last = nn.Conv2d(5, CLASSES, 1)
    with torch.no_grad():
        last.weight *= 10
    return nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), last)


def batch(n=3, size=(32, 48)):
    image, label = torch.rand(n, 1, *size), torch.randint(0, CLASSES, (n, *size))
    label[:, :3] = VOID
    return image, label


def flow_outliers(network=None, **settings):
    how = {"blocks": 1, "width": 4, "couplings": 1, "squeezes": 1, "weight": 0.3, **settings}
    objective = FlowOutliers(network or segmenter(), **how)
    for weight in objective.flow.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.1)
    return objective


def by_equation_4(logits, label, pasted):
    """The two sums, pixel by pixel, over the pixels that are not void."""
    log_p = logits.double().log_softmax(1)
    cross_entropy = divergence = count = 0
    for n in range(len(label)):
        for i in range(label.shape[1]):
            for j in range(label.shape[2]):
                p = log_p[n, :, i, j]
                if pasted[n, i, j]:
                    divergence += sum(1 / CLASSES * (math.log(1 / CLASSES) - q.item()) for q in p)
                elif label[n, i, j] != VOID:
                    cross_entropy -= p[label[n, i, j]].item()
                count += bool(pasted[n, i, j] or label[n, i, j] != VOID)
    return cross_entropy / count, divergence / count


def test_sides_are_those_of_the_paper_and_scale_with_the_crop():
    assert sides((512, 512), 8) == list(range(64, 145, 8))
    assert sides((180, 180), 8) == [24, 32, 40, 48]
    assert sides((64, 90), 4) == [8, 12, 16]
    with pytest.raises(ValueError, match="no room for a patch"):
        sides((16, 16), 8)


def test_patches_replace_what_they_cut_and_nothing_else():
    image, label = batch(n=40)
    place = Patches.draw(image, 2, label)
    assert place.side in sides((32, 48), 2)
    new = torch.rand(40, 1, place.side, place.side)
    pasted, marked = place.paste(image, new), place.mark(label)
    for n in range(40):
        top, left = int(place.top[n]), int(place.left[n])
        square = (slice(top, top + place.side), slice(left, left + place.side))
        assert pasted[n, 0][square].equal(new[n, 0])
        assert place.cut(image)[n, 0].equal(image[n, 0][square])
        assert (marked[n][square] == UNKNOWN).all()
        outside = torch.ones(32, 48, dtype=torch.bool)
        outside[square] = False
        assert pasted[n, 0][outside].equal(image[n, 0][outside])
        assert marked[n][outside].equal(label[n][outside])
    assert len(set(place.left.tolist())) > 10
    last = image.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    assert place.paste(last, new).is_contiguous(memory_format=torch.channels_last)


def test_every_side_is_drawn_about_as_often():
    image, label = torch.rand(1, 1, 64, 64), torch.zeros(1, 64, 64)
    drawn = [Patches.draw(image, 2, label).side for _ in range(600)]
    choices = sides((64, 64), 2)
    counts = [drawn.count(side) for side in choices]
    assert sum(counts) == 600
    assert min(counts) > 0.5 * 600 / len(choices)


def test_losses_equal_equation_4():
    image, label = batch(n=2, size=(10, 12))
    pasted = torch.zeros_like(label, dtype=torch.bool)
    pasted[0, 2:6, 3:7] = pasted[1, 5:9, 0:4] = True  # The first covers void pixels too.
    logits = segmenter()(image).detach()
    found = pasted_losses(logits, label.masked_fill(pasted, UNKNOWN))
    assert [x.item() for x in found] == pytest.approx(by_equation_4(logits, label, pasted))


@pytest.mark.parametrize("kind", [FlowOutliers, NoiseOutliers])
def test_the_networks_loss_is_equation_4_of_what_it_saw(kind, monkeypatch):
    objective = flow_outliers() if kind is FlowOutliers else NoiseOutliers(segmenter(), 0.3)
    objective.stride = 4
    image, label = batch(n=2)
    seen, places = [], []
    draw = Patches.draw.__func__
    monkeypatch.setattr(
        Patches, "draw", classmethod(lambda *a: places.append(draw(*a)) or places[-1])
    )
    handle = objective.network.register_forward_hook(lambda m, args, out: seen.append((*args, out)))
    loss = dict(objective.step(image, label))["network"]
    handle.remove()
    ((shown, logits),) = seen
    (place,) = places
    pasted = place.mark(label) == UNKNOWN
    assert (shown != image)[:, 0][~pasted].sum() == 0
    assert (shown != image)[:, 0][pasted].float().mean() > 0.9
    cross_entropy, divergence = by_equation_4(logits.detach(), label, pasted)
    assert loss.item() == pytest.approx(cross_entropy + 0.3 * divergence)


def test_squares_lie_where_there_is_least_void():
    label = torch.full((300, 12, 16), VOID)
    label[:, 2:9, 5:13] = 1
    place = Patches.draw(torch.rand(300, 1, 12, 16), 2, label, (1 / 3, 1 / 3))
    assert place.side == 4
    assert place.whole(label).all()
    assert set(place.top.tolist()) == set(range(2, 6))
    assert set(place.left.tolist()) == set(range(5, 10))
    counts = place.left.bincount()[5:]
    assert counts.min() > 30  # Of 60 on average: no place is preferred.
    label[:, 2:9, 8] = VOID
    place = Patches.draw(torch.rand(300, 1, 12, 16), 2, label, (1 / 3, 1 / 3))
    assert set(place.left.tolist()) == {9}
    label[0] = VOID
    assert place.whole(label).tolist() == [False] + 299 * [True]


def test_the_flow_learns_from_the_likelihood_and_the_divergence_alone(monkeypatch):
    """By autograd through the pasted image, with the same draws; no cross-entropy pulls."""
    objective, (image, label) = flow_outliers(border=0.5), batch(n=2)
    objective.flow.centre(image)
    place = Patches(torch.tensor([3, 9]), torch.tensor([20, 0]), 8)
    monkeypatch.setattr(Patches, "draw", classmethod(lambda *a: place))
    objective._note_shape(image, place)

    torch.manual_seed(1)
    outliers = objective.flow.sample(2, (8, 8))
    logits = objective.network(place.paste(image, outliers))
    _, divergence = pasted_losses(logits, place.mark(label))
    bits = objective.flow.bits_per_dimension(place.cut(image)).mean()
    parameters = list(objective.flow.parameters())
    alone = torch.autograd.grad(bits, parameters)
    pull = torch.autograd.grad(divergence, parameters)
    length = [sum(g.square().sum() for g in side).sqrt() for side in (alone, pull)]
    share = 0.5 * length[0] / length[1]

    torch.manual_seed(1)
    steps = iter(objective.step(image, label))
    who, loss = next(steps)
    loss.backward()
    assert who == "network"
    assert all(p.grad is None for p in parameters)
    who, loss = next(steps)
    objective.network.zero_grad()
    loss.backward()
    assert who == "flow"
    assert loss.item() == pytest.approx(bits.item(), rel=1e-5)
    assert all(p.grad is None or not p.grad.any() for p in objective.network.parameters())
    for parameter, one, other in zip(parameters, alone, pull, strict=True):
        torch.testing.assert_close(parameter.grad, one + share * other, rtol=1e-3, atol=1e-5)


def test_parts_with_void_teach_the_flow_nothing(monkeypatch):
    objective, (image, label) = flow_outliers(border=0), batch(n=2)
    objective.flow.centre(image)
    place = Patches(
        torch.tensor([0, 9]), torch.tensor([20, 0]), 8
    )  # The first three rows are void.
    monkeypatch.setattr(Patches, "draw", classmethod(lambda *a: place))
    objective._note_shape(image, place)
    for voided, kept in ((label, [1]), (label.index_fill(0, torch.tensor(1), VOID), [])):
        torch.manual_seed(1)
        (_, _), (who, loss) = objective.step(image, voided)
        torch.manual_seed(1)
        objective.flow.sample(2, (8, 8))
        bits = objective.flow.bits_per_dimension(place.cut(image))[kept].sum()
        assert (who, loss.item()) == ("flow", pytest.approx(bits.item(), rel=1e-5))


def test_void_pixels_teach_nothing():
    image, label = batch(n=2)
    network = segmenter()
    for objective in (CrossEntropy(network), NoiseOutliers(network, 0.0)):
        network.zero_grad()
        torch.manual_seed(0)
        ((_, loss),) = objective.step(image, torch.full_like(label, VOID))
        loss.backward()
        assert loss.item() == 0
        assert all(not p.grad.any() for p in network.parameters())


def bands(n=24, seed=0):
    """Images of three grey bands, whose labels are to be learned."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(24).div(8, rounding_mode="floor").expand(n, 32, 24).transpose(1, 2)
    label = torch.cat([label, torch.full((n, 8, 32), VOID)], dim=1)
    image = label.clamp_min(0)[:, None] * 0.3 + 0.1
    image = image + 0.05 * torch.randn(n, 1, 32, 32, generator=generator)
    return image.clamp(0, 1), label.contiguous()


def trained(kind, **how):
    torch.manual_seed(0)
    network = ladder_small(classes=CLASSES, channels=1, width=8, checkpoint=True)
    objective = (
        NoiseOutliers(network, 0.1)
        if kind is NoiseOutliers
        else flow_outliers(network, weight=0.1, border=0.1, squeezes=2, checkpoint=True)
    )
    settings = {"epochs": 4, "batch_size": 6, "optimizer": "adam", "lr": 0.01}
    settings |= {"augment": "scale-crop-flip", "precision": "bf16-mixed", "channels_last": True}
    train(objective, [bands()], **{**settings, **how})
    return objective


@pytest.mark.parametrize("kind", [FlowOutliers, NoiseOutliers])
def test_trains_in_mixed_precision_with_checkpointing_on_both(kind):
    objective = trained(kind)
    assert accuracy(objective.network, [bands(seed=1)]) > 0.7
    assert objective.history.shape[1:] == (8, 1, 8, 8)
    assert objective.samples(2).shape == (2, 1, 8, 8)


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    whole, resumed = trained(FlowOutliers, epochs=2), None
    for _ in range(12):
        try:
            resumed = trained(FlowOutliers, epochs=2, folder=tmp_path, resume=True, max_minutes=0)
            break
        except Paused:
            continue
    assert resumed is not None
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_a_gan_learns_from_the_parts_that_it_replaces(monkeypatch):
    network = segmenter()
    objective = GANOutliers(network, width=4, weight=0.3)
    image, label = batch(n=2, size=(64, 64))
    place = Patches(torch.tensor([3, 40]), torch.tensor([20, 0]), 16)
    monkeypatch.setattr(Patches, "draw", classmethod(lambda *a: place))
    torch.manual_seed(5)
    losses = {who: loss.item() for who, loss in objective.step(image, label)}

    torch.manual_seed(5)
    drawn = objective.generator.sample(2, (16, 16))
    d = objective.discriminator
    expected = -(F.logsigmoid(d(place.cut(image))).mean() + F.logsigmoid(-d(drawn)).mean())
    assert losses["discriminator"] == pytest.approx(expected.item(), rel=1e-4)
    pasted = place.mark(label) == UNKNOWN
    _, divergence = by_equation_4(network(place.paste(image, drawn)).detach(), label, pasted)
    expected = -F.logsigmoid(d(drawn)).mean().item() + 0.3 * divergence
    assert losses["generator"] == pytest.approx(expected, rel=1e-2)
    fresh = objective.generator.sample(2, (16, 16))
    terms = by_equation_4(network(place.paste(image, fresh)).detach(), label, pasted)
    assert losses["network"] == pytest.approx(terms[0] + 0.3 * terms[1], rel=1e-4)
