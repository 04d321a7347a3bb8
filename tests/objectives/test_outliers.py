"""Training with made-up outliers: who learns from which term, against autograd and slow loops."""

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from openset import Tap, evaluate
from openset.data import load_images
from openset.detectors import MaxSoftmax
from openset.errors import Paused
from openset.networks.base import Backbone, pooled_neck
from openset.networks.real_nvp import real_nvp
from openset.objectives import OBJECTIVES as OBJECTIVES_BY_NAME
from openset.objectives.flow_outliers import FlowOutliers
from openset.objectives.gan_outliers import GANOutliers
from openset.objectives.noise_outliers import NoiseOutliers
from openset.objectives.patches import Patches
from openset.objectives.synthetic_outliers import frozen, image_channels, uniform_divergence
from openset.runs.recipe import Recipe
from openset.runs.train import train_run
from openset.spec import build
from openset.training.checkpoints import read_pictures
from openset.training.loop import train
from openset.training.settings import Settings

OBJECTIVES = [FlowOutliers, GANOutliers, NoiseOutliers]


def classifier(channels=1, norm=True) -> Backbone:
    """A small network of three classes, with batch norm and dropout or with neither."""
    between = [nn.BatchNorm2d(6), nn.Dropout(0.1)] if norm else []
    stage = nn.Sequential(nn.Conv2d(channels, 6, 3, 2), *between, nn.ReLU())
    return Backbone(channels, nn.Identity(), [stage], pooled_neck(), nn.Linear(6, 3))


def opinionated() -> Backbone:
    """A classifier whose outlier term is large, so that its gradient is no rounding error."""
    network = classifier(norm=False)
    with torch.no_grad():
        network.head.weight *= 30
    return network


def small(kind, network=None, **settings):
    """An objective with as few maps as it can have."""
    small = {} if kind is NoiseOutliers else {"width": 4}
    if kind is FlowOutliers:
        small |= {"blocks": 1, "couplings": 2}
    objective = kind(network or classifier(), **{**small, **settings})
    if kind is FlowOutliers:
        for weight in objective.flow.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.1)
    return objective


def batch(n=6, size=(8, 8)):
    return torch.rand(n, 1, *size), torch.arange(n) % 3


def gradients(module):
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def pairs(objective, image, label):
    """Each learner's loss, and the gradients its backward pass left in every learner."""
    found = {}
    for who, loss in objective.step(image, label):
        objective.zero_grad()
        loss.backward()
        found[who] = loss.item(), {n: gradients(m) for n, m in objective.learners().items()}
    return found


def learn(objective, image, label, optimizers):
    """One step as the training loop takes it."""
    losses = {}
    for who, loss in objective.step(image, label):
        optimizers[who].zero_grad()
        loss.backward()
        optimizers[who].step()
        losses[who] = loss.item()
    return losses


def adams(objective, lr=2e-3):
    return {who: torch.optim.Adam(m.parameters(), lr) for who, m in objective.learners().items()}


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


def test_classifier_learns_from_equation_2():
    """CE + λ KL on the samples, both from the classifier before its step; no likelihood."""
    network = classifier(norm=False)
    objective = small(FlowOutliers, network, weight=0.7, count=4)
    image, label = batch()
    torch.manual_seed(5)
    loss, reached = pairs(objective, image, label)["network"]

    torch.manual_seed(5)
    drawn = objective.flow.sample(4, (8, 8)).detach()
    expected = F.cross_entropy(network(image), label)
    for x in drawn:
        log_p = network(x[None])[0].log_softmax(0)
        expected = expected + 0.7 / 4 * (-log_p.mean() - math.log(3))
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    reference = torch.autograd.grad(expected, list(network.parameters()))
    for ours, theirs in zip(reached["network"], reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def flow_reference(objective, image, noise_seed, border):
    """Bits per dimension, and the flow's gradient: the pull is `border` times as long as theirs."""
    objective.flow.centre(image)
    objective._note_shape(image, None)
    parameters = list(objective.flow.parameters())
    torch.manual_seed(noise_seed)
    drawn = objective.flow.sample(len(image), (8, 8))
    # The objective draws in this order: latents, then the noise of the grey levels.
    bits = objective.flow.bits_per_dimension(image).mean()
    likelihood = torch.autograd.grad(bits, parameters)
    if not border:
        return bits, likelihood
    pull = torch.autograd.grad(uniform_divergence(objective.network(drawn)).mean(), parameters)
    length = [sum(g.square().sum() for g in side).sqrt() for side in (likelihood, pull)]
    share = border * length[0] / length[1]
    return bits, [one + share * other for one, other in zip(likelihood, pull, strict=True)]


@pytest.mark.parametrize("border", [1.0, 0.5, 0.0])
def test_flow_learns_from_likelihood_and_a_pull_of_a_stated_length(border):
    objective = small(FlowOutliers, opinionated(), weight=3.0, border=border)
    image, label = batch()
    expected, reference = flow_reference(objective, image, 5, border)
    torch.manual_seed(5)
    loss, reached = pairs(objective, image, label)["flow"]
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(reached["flow"], reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_classifier_without_opinion_does_not_pull():
    objective = small(FlowOutliers, classifier(norm=False), border=1.0)
    with torch.no_grad():
        objective.network.head.weight.zero_()
        objective.network.head.bias.zero_()
    image, label = batch()
    _, alone = flow_reference(objective, image, 5, 0.0)
    torch.manual_seed(5)
    _, reached = pairs(objective, image, label)["flow"]
    for ours, theirs in zip(reached["flow"], alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_channels_last_changes_no_gradient_of_the_flow():
    """As `channels_last = true` of a training lays weights and images."""
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        objective = small(FlowOutliers, opinionated(), border=0.5).to(memory_format=layout)
        image, label = batch()
        image = image.contiguous(memory_format=layout)
        found.append(pairs(objective, image, label)["flow"][1]["flow"])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_pull_has_one_length_whatever_its_unit():
    """Ten times the logits' scale changes the KL term manyfold, and the flow's step not so."""
    image, label = batch()
    lengths, logged = [], []
    for scale in (1, 10):
        torch.manual_seed(0)
        objective = small(FlowOutliers, opinionated(), border=0.5)
        with torch.no_grad():
            objective.network.head.weight *= scale
        _, alone = flow_reference(objective, image, 5, 0.0)
        torch.manual_seed(5)
        _, reached = pairs(objective, image, label)["flow"]
        added = [g - a for g, a in zip(reached["flow"], alone, strict=True)]
        lengths.append(sum(x.square().sum() for x in added).sqrt().item())
        logged.append(objective.figures())
        whole = sum(x.square().sum() for x in alone).sqrt().item()
        assert logged[-1]["likelihood_gradient"] == pytest.approx(whole, rel=1e-3)
        assert lengths[-1] == pytest.approx(0.5 * whole, rel=1e-2)
    assert logged[1]["pull_gradient"] > 3 * logged[0]["pull_gradient"]


def test_the_flow_has_its_own_settings_whatever_the_runs():
    """Adam at a constant 1e-3: the run's cosine, warm-up and clipping are not the flow's."""
    objective = small(FlowOutliers)
    run = Settings(epochs=4, lr=0.5, schedule="cosine", warmup_epochs=1, clip_norm=1.0)
    own = run.changed(objective.options()["flow"])
    assert isinstance(own.build_optimizer(objective.flow), torch.optim.Adam)
    assert {own.lr_at(epoch) for epoch in (0.0, 0.5, 2.0, 4.0)} == {1e-3}
    assert own.clip_norm is None
    assert small(FlowOutliers, lr=1e-4).options()["flow"]["lr"] == 1e-4


def epoch_of(objective, epoch, image, label, optimizers):
    objective.start_epoch(epoch)
    losses = [learn(objective, image, label, optimizers) for _ in range(10)]
    return losses, objective.figures()


def test_outliers_wait_until_the_flow_beats_the_histogram_code():
    objective = small(FlowOutliers, weight=1.0, blocks=1, width=8)
    image, label = batch(64)
    # Constant images whose level differs: neighbours tell a pixel, a histogram does not.
    image = (image[:, :, :1, :1] * 255).round().expand(-1, -1, 8, 8) / 255
    optimizers = adams(objective, lr=1e-2)
    told = [epoch_of(objective, epoch, image, label, optimizers)[1] for epoch in range(8)]
    won = [each["bits_per_dimension"] < each["histogram_bits"] for each in told]
    used = [bool(each["outliers"]) for each in told]
    assert used == [False, *won[:-1]]
    assert not won[0]
    assert used[-1]
    assert "pull_gradient" in told[-1]
    assert "pull_gradient" not in told[0]


def test_while_outliers_wait_the_classifier_trains_as_without():
    network = classifier(norm=False)
    objective = small(FlowOutliers, network, pretrain_epochs=2)
    image, label = batch()
    objective.start_epoch(0)
    loss, _ = pairs(objective, image, label)["network"]
    assert loss == pytest.approx(F.cross_entropy(network(image), label).item(), rel=1e-5)


def test_a_flow_that_was_trained_before_draws_at_once_but_not_in_pretraining():
    flow = real_nvp(1, squeezes=1, width=4)
    for epochs, expected in ((0, True), (1, False)):
        objective = FlowOutliers(classifier(), flow=flow, pretrain_epochs=epochs)
        objective.start_epoch(0)
        assert bool(objective.drawing) == expected
    before = flow.mean.clone()
    list(objective.step(*batch()))
    assert torch.equal(flow.mean, before)


def test_a_flow_is_read_from_its_run(tmp_path):
    recipe = Recipe(
        "digits",
        network="real-nvp:blocks=1,width=4,couplings=1",
        objective="likelihood",
        settings=Settings(epochs=1),
    )
    run = train_run(recipe, tmp_path / "flow", progress=False, device="cpu")
    objective = build(
        "objective",
        OBJECTIVES_BY_NAME,
        f"flow-outliers:flow={run.folder}",
        network=classifier(),
    )
    kept = run.load_network().state_dict()
    assert all(torch.equal(x, kept[key]) for key, x in objective.flow.state_dict().items())
    assert objective.spec()["settings"]["flow"]["spec"]["width"] == 4
    with pytest.raises(ValueError, match="openset train DATA --network real-nvp"):
        FlowOutliers(classifier(), flow=str(tmp_path))


def test_flow_takes_the_classifier_from_before_its_step():
    """Algorithm 1 takes both gradients of one loss: a classifier that moves is of no effect."""
    results = []
    for lr in (0.0, 1.0):
        torch.manual_seed(3)
        objective = small(FlowOutliers, opinionated())
        image, label = batch()
        for who, loss in objective.step(image, label):
            objective.zero_grad()
            loss.backward()
            if who == "network":
                with torch.no_grad():
                    for p in objective.network.parameters():
                        p -= lr * p.grad
        results.append(gradients(objective.flow))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


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


@pytest.mark.parametrize("mixed", [True, False])
def test_bits_per_dimension_fall_and_nothing_breaks_in_either_precision(mixed):
    objective = small(FlowOutliers)
    image, label = batch(16)
    image = (image * 0.1 + 0.5).mul(255).round() / 255
    optimizers = adams(objective, lr=1e-2)
    objective.start_epoch(0)
    assert objective.figures() == {}
    before = objective.flow.bits_per_dimension(image, noise=0.5).mean().item()
    for _ in range(40):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            losses = learn(objective, image, label, optimizers)
        assert all(math.isfinite(loss) for loss in losses.values())
    after = objective.flow.bits_per_dimension(image, noise=0.5).mean().item()
    assert after < before - 0.5
    assert after < objective.figures()["bits_per_dimension"] < before
    assert all(p.isfinite().all() for p in objective.parameters())


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


def test_a_flow_of_ones_own_and_settings_as_given():
    flow = real_nvp(1, squeezes=1, width=4)
    objective = FlowOutliers(classifier(), weight=0.1, flow=flow)
    assert objective.flow is flow
    assert objective.learners()["flow"] is flow
    assert objective.settings()["weight"] == 0.1


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


DIGITS = {
    "flow-outliers": "flow-outliers:blocks=1,couplings=4",
    "gan-outliers": "gan-outliers:width=32",
    "noise-outliers": "noise-outliers",
}


@pytest.mark.slow
def test_no_training_with_outliers_ends_below_plain_training_on_the_digits():
    """Classes 0–5, `cnn`, 15 epochs, Gaussian noise unknown: the mean AUROC over three seeds.

    650 images teach neither generator enough to draw a border, and then neither may draw one.
    """
    plain = [auroc_on_noise("cross-entropy", seed) for seed in range(3)]
    for spec in DIGITS.values():
        found = [auroc_on_noise(spec, seed) for seed in range(3)]
        assert sum(found) / 3 > sum(plain) / 3 - 0.005, (spec, found, plain)


def auroc_on_noise(spec, seed):
    settings = Settings(epochs=15, seed=seed)
    recipe = Recipe("digits", known_classes="0-5", objective=spec, settings=settings)
    data = recipe.load_data()
    network = train(recipe.build_objective(data), data, settings, device="cpu", progress=False)
    noise = load_images("gaussian-noise,limit=500", data.adapter)
    found = evaluate(Tap(network), [MaxSoftmax()], known=data.test, unknown={"noise": noise})
    return next(row.value for row in found.rows if row.metric == "auroc")
