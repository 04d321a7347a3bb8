"""The VMDLS loss against loops written from the paper's equations 1–7."""

import math

import pytest
import torch
from torch import nn

from openset.networks.base import Backbone, pooled_neck
from openset.networks.latent import Latent
from openset.objectives.vmdls import VMDLS, balanced, gaussian_kl, triplet_loss


def network(classes=3):
    return Backbone(1, nn.Identity(), [nn.Conv2d(1, 6, 3)], pooled_neck(), nn.Linear(6, classes))


def loop_loss(z, mean, sigma, label, target, s, margin_t, margin_d, weight):
    """Equations 2–7, term by term, with the sign of the KL corrected."""
    total = 0.0
    for a in range(len(z)):
        kl = sum(
            torch.log(s / sigma[a, j])
            + (sigma[a, j] ** 2 + (mean[a, j] - target[label[a], j]) ** 2) / (2 * s**2)
            - 0.5
            for j in range(z.shape[1])
        )
        metric, triplets = 0.0, 0
        for p in range(len(z)):
            for n in range(len(z)):
                if p == a or label[p] != label[a] or label[n] == label[a]:
                    continue
                to_p, to_n = ((z[a] - z[p]) ** 2).sum(), ((z[a] - z[n]) ** 2).sum()
                metric = metric + torch.clamp(margin_t + to_p - to_n, min=0)
                metric = metric + torch.clamp(margin_d - to_n, min=0)
                triplets += 1
        total = total + weight * kl + metric / triplets
    return total / len(z)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("label", [[0, 0, 0, 1, 1, 1, 2, 2, 2], [2, 0, 1, 0, 0, 2, 1, 0, 0]])
def test_loss_and_gradients_equal_a_loop_over_the_equations(label, deterministic):
    label = torch.tensor(label)
    torch.set_default_dtype(torch.float64)
    try:
        objective = VMDLS(
            network(), size=4, kl_weight=0.7, margin_push=3.0, deterministic=deterministic
        )
        for head in (objective.network.mean, objective.network.log_variance):
            nn.init.normal_(head.weight)  # Else every image has nearly the same μ, and σ² = s².
        objective.start_epoch(0)
        image = torch.rand(9, 1, 5, 5)
        list(objective.step(image, label))
        objective.start_epoch(1)

        def expected():
            mean, log_variance = objective.network.encode(image)
            sigma = (log_variance / 2).exp()
            z = mean if deterministic else mean + sigma * torch.randn_like(mean)
            s = math.sqrt(0.1)
            return loop_loss(z, mean, sigma, label, objective.targets, s, 0.1, 3.0, 0.7)

        values = []
        for compute in (expected, lambda: next(objective.step(image, label))[1]):
            torch.manual_seed(7)
            objective.zero_grad()
            loss = compute()
            loss.backward()
            gradients = [p.grad.flatten() for p in objective.parameters()]
            values.append((loss.detach(), torch.cat(gradients)))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(values[1][0], values[0][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(values[1][1], values[0][1], rtol=1e-5, atol=1e-5)
    assert values[0][1].abs().max() > 0.1


def test_kl_is_that_of_torch_distributions():
    mean, log_variance, target = torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 3)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()),
        torch.distributions.Normal(target, math.sqrt(0.1)),
    ).sum(1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance, target, 0.1), expected)


def test_published_variant_averages_the_triplets_that_have_a_loss_on_the_sphere():
    z, label = torch.randn(6, 3) * 5, torch.tensor([0, 0, 1, 1, 2, 2])
    objective = VMDLS(network(), size=3, variant="published", margin_push=0.9)
    objective.progress.fill_(1e9)
    losses = []
    unit = nn.functional.normalize(z)
    for a in range(6):
        for p in range(6):
            for n in range(6):
                if p != a and label[p] == label[a] and label[n] != label[a]:
                    to_p, to_n = (unit[a] - unit[p]).norm(), (unit[a] - unit[n]).norm()
                    losses.append((0.1 + to_p - to_n).clamp(min=0) + (0.9 - to_n).clamp(min=0))
    losses = torch.stack(losses)
    assert (losses == 0).any()
    torch.testing.assert_close(objective.metric(z, label), losses[losses > 0].mean())
    assert (objective.variance, objective.kl_weight) == (0.01, pytest.approx(0.1 / 3))
    assert objective.margin_ramp == 0.9


def test_the_papers_loss_is_the_equations():
    objective = VMDLS(network(), size=3)
    assert (objective.variance, objective.kl_weight, objective.margin_ramp) == (0.1, 1.0, 0.0)
    assert objective.margin() == 3.0  # M_d = d from the first step on


def test_published_gradient_is_finite_where_two_images_fall_together():
    z = torch.ones(4, 3, requires_grad=True)
    objective = VMDLS(network(), size=3, variant="published")
    objective.metric(z, torch.tensor([0, 0, 1, 1])).backward()
    assert z.grad.isfinite().all()


def test_a_batch_without_triplets_has_no_loss():
    loss = triplet_loss(torch.rand(3, 3), torch.tensor([0, 1, 2]), 0.1, 4.0)
    assert loss == 0
    assert triplet_loss(torch.rand(3, 3), torch.tensor([1, 1, 1]), 0.1, 4.0) == 0


def test_targets_are_the_class_means_of_z_in_the_previous_epoch(monkeypatch):
    samples = []
    objective = VMDLS(network(), size=2)
    count = objective._count
    monkeypatch.setattr(
        objective, "_count", lambda z, label: (samples.append((z, label)), count(z, label))
    )
    for epoch in range(2):
        objective.start_epoch(epoch)
        samples.clear()
        for _ in range(3):
            list(objective.step(torch.rand(8, 1, 5, 5), torch.tensor([0, 1, 1, 0, 1, 0, 1, 1])))
        if epoch == 0:
            assert not objective.ready.any()
    objective.start_epoch(2)
    z, label = torch.cat([z for z, _ in samples]), torch.cat([label for _, label in samples])
    for c in (0, 1):
        torch.testing.assert_close(objective.targets[c], z[label == c].mean(0))
    assert objective.ready.tolist() == [True, True, False]
    assert objective.counts.sum() == 0


def test_a_deterministic_latent_has_no_noise_and_targets_that_are_the_means_of_mu():
    objective = VMDLS(network(), size=2, deterministic=True, kl_weight=0.0)
    image, label = torch.rand(8, 1, 5, 5), torch.arange(8) % 2
    objective.start_epoch(0)
    first, again = (next(objective.step(image, label))[1] for _ in range(2))
    assert first.equal(again)
    first.backward()
    assert (objective.network.log_variance.weight.grad == 0).all()
    objective.start_epoch(1)
    mean = objective.network.encode(image)[0]
    for c in (0, 1):
        torch.testing.assert_close(objective.targets[c], mean[label == c].mean(0))


def test_there_is_no_kl_in_the_first_epoch_nor_for_a_class_that_was_not_seen():
    objective = VMDLS(network(), size=2, margin_triplet=-1e6, margin_push=0.0, kl_weight=1.0)
    image = torch.rand(4, 1, 5, 5)
    objective.start_epoch(0)
    assert next(objective.step(image, torch.tensor([0, 0, 1, 1])))[1] == 0
    objective.start_epoch(1)
    assert next(objective.step(image, torch.tensor([2, 2, 2, 2])))[1] == 0
    assert next(objective.step(image, torch.tensor([0, 0, 1, 1])))[1] > 0


def test_the_margin_grows_within_the_ramp_and_stays():
    objective = VMDLS(network(), size=8, margin_ramp=2.0)
    labels = torch.arange(3).repeat(16)
    objective.classes_per_batch, objective.images_per_class = 3, 4
    margins = []
    for epoch in range(3):
        objective.start_epoch(epoch)
        for indices in objective.order(labels, 99, torch.Generator()):
            margins.append(objective.margin())
            list(objective.step(torch.rand(len(indices), 1, 5, 5), labels[indices]))
    expected = [0.15 + (8 - 0.15) * min(1, i / 8) for i in range(12)]
    assert margins == pytest.approx(expected)


def test_only_the_heads_learn_while_the_backbone_is_frozen():
    backbone = network()
    backbone.stem = nn.BatchNorm2d(1)
    objective = VMDLS(backbone, size=2, freeze_epochs=1)
    image, label = torch.rand(6, 1, 5, 5), torch.arange(3).repeat(2)
    for epoch, learns in ((0, False), (1, True)):
        objective.start_epoch(epoch)
        before = backbone.stem.running_mean.clone()
        next(objective.step(image, label))[1].backward()
        assert (backbone.stage1.weight.grad is not None) == learns
        assert torch.equal(before, backbone.stem.running_mean) != learns
        assert objective.network.mean.weight.grad is not None


def test_finish_sets_the_centres_to_the_class_means_of_mu():
    objective = VMDLS(network(), size=2)
    batches = [(torch.rand(6, 1, 5, 5), torch.arange(3).repeat(2)) for _ in range(2)]
    kept = objective.finish(batches)
    assert isinstance(kept, Latent)
    with torch.no_grad():
        mean = torch.cat([kept.encode(image)[0] for image, _ in batches])
    label = torch.cat([label for _, label in batches])
    for c in range(3):
        torch.testing.assert_close(kept.centres[c], mean[label == c].mean(0))


def test_finish_keeps_the_centre_of_a_class_without_images():
    objective = VMDLS(network(), size=2)
    objective.network.centres[2] = 7.0
    kept = objective.finish([(torch.rand(4, 1, 5, 5), torch.tensor([0, 0, 1, 1]))])
    assert kept.centres[2].tolist() == [7.0, 7.0]
    assert (kept.centres[:2] != 0).all()


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_a_checkpoint_is_taken_up_where_the_training_lies():
    # Read on the CPU, it goes on wherever the objective was moved to.
    state = VMDLS(network(), size=2).state_dict()
    objective = VMDLS(network(), size=2).to("meta")
    objective.load_state_dict(state)
    assert all(x.is_meta for x in objective.buffers())


def test_training_separates_the_classes():
    objective = VMDLS(network(), size=2, margin_push=4.0, margin_ramp=1.0)
    optimizer = torch.optim.Adam(objective.parameters(), 0.03)
    label = torch.arange(3).repeat(8)
    image = torch.rand(24, 1, 5, 5) * 0.1 + label.view(-1, 1, 1, 1) * 0.4
    for epoch in range(4):
        objective.start_epoch(epoch)
        for _ in range(25):
            optimizer.zero_grad()
            next(objective.step(image, label))[1].backward()
            optimizer.step()
    kept = objective.finish([(image, label)])
    assert (kept(image).argmax(1) == label).all()


def test_order_is_balanced_seeded_and_covers_the_data():
    labels = torch.arange(5).repeat(40)[torch.randperm(200)]
    batches = list(
        VMDLS(network(5), classes_per_batch=5, images_per_class=8).order(
            labels, 0, torch.Generator().manual_seed(3)
        )
    )
    assert [len(batch) for batch in batches] == [40] * 5
    assert all((labels[batch].bincount() == 8).all() for batch in batches)
    assert sorted(torch.cat(batches).tolist()) == list(range(200))
    again = balanced(labels, 5, 8, torch.Generator().manual_seed(3))
    other = balanced(labels, 5, 8, torch.Generator().manual_seed(4))
    assert torch.equal(again, torch.stack(batches))
    assert not torch.equal(again, other)


def test_order_takes_some_classes_per_batch_and_repeats_rare_ones():
    labels = torch.tensor([0] * 90 + [1] * 3 + [2] * 30 + [-1] * 9)
    batches = balanced(labels, 2, 6, torch.Generator().manual_seed(0))
    assert batches.shape == (11, 12)
    for batch in labels[batches]:
        values, counts = batch.unique(return_counts=True)
        assert counts.tolist() == [6, 6]
        assert values.min() >= 0


def test_one_class_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="at least 2 classes"):
        balanced(torch.zeros(9, dtype=torch.long), 10, 4, torch.Generator())
    with pytest.raises(ValueError, match="variant"):
        VMDLS(network(), variant="other")  # type: ignore[arg-type]
