"""Synthesis: a generator of images from class maps, beside a discriminator of patches."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.networks import cnn, from_spec, spade
from openset.networks.spade import Block, class_maps
from openset.objectives import Synthesis
from openset.training.loop import train


def scenes(n, seed=0):
    """Label maps of three classes, void at the left edge, and images with a colour for each."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (n, 1, 3, 4), generator=generator).float()
    label = F.interpolate(label, scale_factor=8)[:, 0].long()
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]])
    image = colours[label].movedim(-1, 1) + 0.05 * torch.rand(n, 3, 24, 32, generator=generator)
    label[:, :, 0] = -100
    return image, label


def small(**settings):
    torch.manual_seed(0)
    return Synthesis(spade(classes=3, width=4), width=4, **settings)


def test_class_maps_say_where_each_class_is():
    label = torch.tensor([[[0, 2], [-1, -100]]])
    maps = class_maps(label, 3, (2, 2))
    for k in range(3):
        assert maps[0, k].equal((label[0] == k).float())
    whole = class_maps(torch.tensor([2, 0]), 3, (4, 5))
    assert whole.shape == (2, 3, 4, 5)
    assert whole.mean((2, 3)).equal(torch.tensor([[0.0, 0, 1], [1, 0, 0]]))


def test_a_block_is_the_papers():
    block, x, maps = (
        Block(4, 6, classes=3, hidden=5),
        torch.randn(2, 4, 7, 9),
        torch.rand(2, 3, 7, 9),
    )
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    read = block.read(maps).clamp_min(0)
    placed = (x - mean) / (variance + 1e-5).sqrt() * (1 + block.scale(read)) + block.shift(read)
    expected = block.skip(x) + block.convolution(torch.where(placed > 0, placed, 0.2 * placed))
    torch.testing.assert_close(block(x, maps), expected)


def test_an_image_is_drawn_alike_alone_and_in_a_batch_of_any_size():
    generator = spade(classes=3, width=4)
    for size in ((24, 32), (9, 13), (8, 8)):
        maps = class_maps(torch.randint(3, (4, *size)), 3, size)
        drawn = generator(maps)
        assert drawn.shape == (4, 3, *size)
        torch.testing.assert_close(generator(maps[1:2]), drawn[1:2])
    again = from_spec(generator.spec)
    again.load_state_dict(generator.state_dict())
    assert again(maps).equal(generator(maps))


def test_the_losses_are_the_papers():
    objective = small(weight=3.0).eval()
    image, label = scenes(3)
    maps = class_maps(label, 3, (24, 32))
    drawn, judge = objective.network(maps), objective.discriminator
    real, fake = judge(maps, image), judge(maps, drawn)
    assert [len(scale) for scale in real] == [4, 4]
    gaps = [
        (a - b).abs().mean()
        for i in range(2)
        for a, b in zip(real[i][:3], fake[i][:3], strict=True)
    ]
    deceit = sum(scale[3].mean() for scale in fake) / 2
    losses = dict(objective.step(image, label))
    likeness = sum(gaps) / 6 + (image - drawn).abs().mean()
    torch.testing.assert_close(losses["network"], 3 * likeness - deceit)
    hinge = sum((1 - scale[3]).clamp_min(0).mean() for scale in real)
    hinge = hinge + sum((1 + scale[3]).clamp_min(0).mean() for scale in fake)
    torch.testing.assert_close(losses["discriminator"], hinge / 2)


def test_each_loss_moves_its_own_learner_alone():
    objective = small()
    for learner, loss in objective.step(*scenes(3)):
        objective.zero_grad()
        loss.backward()
        moved = {n.partition(".")[0] for n, p in objective.named_parameters() if p.grad is not None}
        assert moved == {learner}


def test_what_void_pixels_show_is_drawn_by_no_class():
    objective, (image, label) = small().eval(), scenes(2)
    label[:] = -100
    drawn = objective.network(class_maps(label, 3, (24, 32)))
    torch.testing.assert_close(objective.logits(image), drawn)


def test_it_learns_the_colour_of_each_class():
    torch.manual_seed(0)
    objective = Synthesis(spade(classes=3, width=4), width=4, lr=3e-3)
    network = train(objective, [scenes(64)], epochs=20, batch_size=16)
    image, label = scenes(8, seed=1)
    with torch.no_grad():
        drawn = network(class_maps(label, 3, (24, 32)))
    own = (drawn - image).abs().mean()
    assert own < 0.4 * (image.mean((0, 2, 3), keepdim=True) - image).abs().mean()


def test_another_network_is_refused():
    with pytest.raises(ValueError, match="Backbone does not: take the network spade"):
        Synthesis(cnn(classes=3))
    with pytest.raises(ValueError, match="Identity does not"):
        Synthesis(nn.Identity())
