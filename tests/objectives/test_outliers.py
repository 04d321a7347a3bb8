"""Training with made-up outliers: who learns from which term, against autograd and slow loops."""

import io
import json
import math

import numpy as np
import pytest
import torch
from outlier_makers import adams, batch, classifier, learn, pairs, small
from PIL import Image
from torch import nn
from torch.nn import functional as F

from openset.errors import Paused
from openset.objectives.flow_outliers import FlowOutliers
from openset.objectives.gan_outliers import GANOutliers
from openset.objectives.noise_outliers import NoiseOutliers
from openset.objectives.patches import Patches
from openset.objectives.synthetic_outliers import frozen, image_channels, uniform_divergence
from openset.training.checkpoints import read_pictures
from openset.training.loop import train

OBJECTIVES = [FlowOutliers, GANOutliers, NoiseOutliers]


def test_uniform_divergence_is_torchs_and_the_slow_loops():
    logits = 4 * torch.randn(5, 7)
    uniform = torch.distributions.Categorical(logits=torch.zeros(5, 7))
    expected = torch.distributions.kl_divergence(
        uniform, torch.distributions.Categorical(logits=logits)
    )
    torch.testing.assert_close(uniform_divergence(logits), expected)
    p = logits[0].softmax(0).tolist()
    slow = sum(1 / 7 * math.log((1 / 7) / pc) for pc in p)
    assert uniform_divergence(logits)[0].item() == pytest.approx(slow, rel=1e-5)


def test_uniform_divergence_per_pixel_and_at_its_ends():
    logits = torch.randn(2, 3, 4, 5)
    pixels = logits.permute(0, 2, 3, 1).reshape(-1, 3)
    expected = uniform_divergence(pixels).view(2, 4, 5)
    torch.testing.assert_close(uniform_divergence(logits), expected)
    assert uniform_divergence(torch.ones(1, 4)).item() == pytest.approx(0, abs=1e-6)
    certain = uniform_divergence(torch.tensor([[1e4, 0.0, 0.0]]))
    assert certain.item() == pytest.approx(2e4 / 3 - math.log(3), rel=1e-5)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_no_loss_reaches_another_learner(kind):
    objective = small(kind)
    found = pairs(objective, *batch())
    assert set(found) == set(objective.learners())
    for who, (loss, reached) in found.items():
        assert math.isfinite(loss)
        for name, values in reached.items():
            if name == who:
                assert all(value is not None and value.isfinite().all() for value in values)
                assert any(value.any() for value in values)
            else:
                assert all(value is None or not value.any() for value in values)


@pytest.mark.parametrize("kind", [FlowOutliers, GANOutliers])
def test_step_of_what_draws_leaves_the_classifier_alone(kind):
    """Weights, running statistics and `requires_grad`, with batch norm and dropout inside."""
    objective = small(kind)
    objective.network.stem.requires_grad_(False)
    optimizers = adams(objective)
    state = None
    for who, loss in objective.step(*batch()):
        optimizers[who].zero_grad()
        loss.backward()
        optimizers[who].step()
        now = {k: v.clone() for k, v in objective.network.state_dict().items()}
        if who != "network" and state is not None:
            assert all(torch.equal(now[k], state[k]) for k in now)
        state = now
    assert all(p.requires_grad for p in objective.parameters())
    assert all(m.training for m in objective.modules())


def test_without_a_weight_it_is_the_papers():
    objective = FlowOutliers(classifier(), blocks=1, width=4)
    place = Patches.draw(torch.rand(2, 1, 32, 32), 4, torch.zeros(2, 32, 32))
    assert (objective.strength(None), objective.strength(place)) == (1.0, 1e-3)
    assert GANOutliers(classifier()).strength(None) == 0.1
    assert FlowOutliers(classifier(), weight=0.3, blocks=1, width=4).strength(place) == 0.3


def test_gan_losses_are_the_papers():
    network = classifier(norm=False)
    objective = small(GANOutliers, network, weight=0.3)
    image, label = batch()
    torch.manual_seed(5)
    losses = {who: loss.item() for who, loss in objective.step(image, label)}

    torch.manual_seed(5)
    drawn = objective.generator.sample(6, (8, 8))
    d = objective.discriminator
    expected = -(F.logsigmoid(d(image)).mean() + F.logsigmoid(-d(drawn)).mean())
    assert losses["discriminator"] == pytest.approx(expected.item(), rel=1e-4)
    with frozen(network), frozen(d, as_is=True):
        assert d.training
        expected = -F.logsigmoid(d(drawn)).mean() + 0.3 * uniform_divergence(network(drawn)).mean()
    assert losses["generator"] == pytest.approx(expected.item(), rel=1e-2)
    fresh = objective.generator.sample(6, (8, 8))
    expected = (
        F.cross_entropy(network(image), label) + 0.3 * uniform_divergence(network(fresh)).mean()
    )
    assert losses["network"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_each_trains_the_classifier_and_flattens_its_outliers(kind):
    objective = small(kind, weight=1.0)
    image, label = batch(48)
    image = image * 0.2 + 0.3 * label.view(-1, 1, 1, 1)
    optimizers = adams(objective, lr=1e-2)
    first = learn(objective, image, label, optimizers)["network"]
    for _ in range(50):
        last = learn(objective, image, label, optimizers)["network"]
    assert last < first - 0.2
    network = objective.finish([]).eval()
    assert network is objective.network
    right = (network(image).argmax(1) == label).float().mean()
    assert right > 0.7


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_samples_are_images_of_the_training_size(kind):
    objective = small(kind)
    with pytest.raises(ValueError, match="train first"):
        objective.samples(2)
    list(objective.step(*batch(size=(8, 12))))
    drawn = objective.samples(5, torch.Generator().manual_seed(1))
    assert drawn.shape == (5, 1, 8, 12)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert not drawn.requires_grad
    assert torch.equal(drawn, objective.samples(5, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_resumed_run_ends_with_the_same_weights(kind, tmp_path):
    """Through the real loop: every learner, what it draws, and the log of bits per dimension."""
    data = [batch() for _ in range(3)]
    settings = {"epochs": 3, "batch_size": 6, "optimizer": "adam", "lr": 1e-3, "progress": False}
    whole = train(small(kind), data, folder=tmp_path / "whole", **settings)

    torch.manual_seed(0)
    data = [batch() for _ in range(3)]
    with pytest.raises(Paused):
        train(small(kind), data, folder=tmp_path / "cut", max_minutes=0, **settings)
    resumed = train(small(kind), data, folder=tmp_path / "cut", resume=True, **settings)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    if kind is FlowOutliers:
        lines = (tmp_path / "cut" / "log.jsonl").read_text().splitlines()
        assert all(0 < json.loads(line)["bits_per_dimension"] < 12 for line in lines)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_history_and_learners_resume_together(kind):
    objective = small(kind)
    for epoch in range(5):
        objective.start_epoch(epoch)
        list(objective.step(*batch()))
    assert objective.history.shape == (3, 8, 1, 8, 8)  # Before epochs 1, 2 and 4.
    again = small(kind)
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again.history, objective.history)
    draw = [o.samples(2, torch.Generator().manual_seed(0)) for o in (objective, again)]
    assert torch.equal(*draw)
    again.finish([])
    assert len(again.history) == 4


def test_drawing_for_the_report_leaves_the_random_state_alone():
    objective = small(FlowOutliers)
    list(objective.step(*batch()))
    state = torch.get_rng_state()
    objective.start_epoch(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_has_the_stated_moments_before_clipping():
    objective = NoiseOutliers(classifier(), mean=0.4, std=0.05)
    noise = objective.draw(20, (16, 16), torch.Generator().manual_seed(0))
    assert noise.mean().item() == pytest.approx(0.4, abs=0.005)
    assert noise.std().item() == pytest.approx(0.05, abs=0.005)
    wide = NoiseOutliers(classifier()).draw(20, (16, 16), None)
    assert (wide == 0).float().mean().item() == pytest.approx(0.3085, abs=0.03)  # Φ(−½)


def test_channels_are_read_from_the_network():
    assert image_channels(classifier(channels=3)) == 3
    with pytest.raises(ValueError, match="how many channels"):
        image_channels(nn.Linear(4, 2))


def test_frozen_restores_what_was_frozen_before():
    network = classifier()
    network.head.requires_grad_(False)
    network.stage1.eval()
    with frozen(network):
        assert not any(p.requires_grad for p in network.parameters())
        assert not network.training
    assert network.training
    assert not network.stage1.training
    assert not network.head.weight.requires_grad
    assert network.stage1[0].weight.requires_grad


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_run_keeps_a_picture_of_the_outliers_over_time(kind, tmp_path):
    objective = small(kind)
    assert objective.pictures() == {}
    image, label = batch()
    train(objective, [(image, label)], epochs=3, batch_size=6, folder=tmp_path, progress=False)
    ((title, picture),) = objective.pictures().items()
    assert title == "outliers after 1, 2 epochs and at the end"
    assert picture.shape == (1, 3 * 8, 8 * 8)
    last = (255 * objective.samples(8, torch.Generator().manual_seed(0))).round()
    assert torch.equal(picture[:, 16:, 24:32].float(), last[3].cpu())
    shown = Image.open(io.BytesIO(read_pictures(tmp_path)[title]))
    assert shown.size == (128, 48)
    assert torch.equal(torch.from_numpy(np.array(shown))[::2, ::2], picture[0])


def test_a_gan_that_deceives_nobody_draws_no_outliers():
    """From the third epoch on: its samples count as soon as 5 % of them passed for real."""
    network = classifier(norm=False)
    objective = small(GANOutliers, network)
    image, label = batch()
    told = {}
    for epoch, bias in enumerate((30.0, 30.0, 30.0, -30.0, 30.0)):
        objective.start_epoch(epoch)
        told[epoch] = bool(objective.drawing)
        last = objective.discriminator.layers[-1]
        with torch.no_grad():  # All real, or all drawn, in the discriminator's eyes.
            last.weight.zero_()
            last.bias.fill_(bias)
        losses = pairs(objective, image, label)
        plain = F.cross_entropy(network(image), label).item()
        assert (losses["network"][0] == pytest.approx(plain, rel=1e-5)) != told[epoch]
        assert objective.figures() == {"deceived": float(bias > 0), "outliers": told[epoch]}
    assert told == {0: False, 1: False, 2: True, 3: True, 4: False}
    as_published = small(GANOutliers, network, deceived=0.0)
    as_published.start_epoch(0)
    assert as_published.drawing
