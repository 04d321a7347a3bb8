"""Who pulls the flow, by how much, when it draws; against autograd and by hand."""

import math

import pytest
import torch
from outlier_makers import adams, batch, classifier, gradients, learn, opinionated, pairs, small
from torch.nn import functional as F

from openset.networks.real_nvp import real_nvp
from openset.objectives import OBJECTIVES, FlowOutliers
from openset.objectives.synthetic_outliers import uniform_divergence
from openset.runs.recipe import Recipe
from openset.runs.train import train_run
from openset.spec import build
from openset.training.settings import Settings


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
    objective = small(FlowOutliers, weight=1.0, border=0.1, blocks=1, width=8)
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
        OBJECTIVES,
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
        objective = small(FlowOutliers, opinionated(), border=0.5)
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


@pytest.mark.parametrize("mixed", [True, False])
def test_bits_per_dimension_fall_and_nothing_breaks_in_either_precision(mixed):
    objective = small(FlowOutliers, border=0.1)
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


def test_a_flow_of_ones_own_and_settings_as_given():
    flow = real_nvp(1, squeezes=1, width=4)
    objective = FlowOutliers(classifier(), weight=0.1, flow=flow)
    assert objective.flow is flow
    assert objective.learners()["flow"] is flow
    assert objective.settings()["weight"] == 0.1
