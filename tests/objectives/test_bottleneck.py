import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from openset.data import load
from openset.evaluation.metrics import auroc
from openset.networks import cnn
from openset.objectives.bottleneck import VIB, VIBY, fit_priors
from openset.training.loop import train

LABEL = torch.tensor([0, 2, 1, 1, 0])


def network():
    return cnn(classes=3, channels=1, widths=(4, 8), hidden=16)


def loss_of(objective, image):
    ((learner, loss),) = objective.step(image, LABEL)
    assert learner == "network"
    return loss


def prior_of(objective, c):
    divergence = objective.network.divergence
    return Independent(Normal(divergence.mean[c], divergence.log_sigma[c].exp()), 1)


def shake_priors(objective):
    with torch.no_grad():
        for parameter in objective.network.divergence.parameters():
            parameter.normal_()


def parts(objective, image):
    """Cross-entropy of one draw and KL to each prior, by torch.distributions."""
    mean, log_sigma = objective.network.encode(image)
    code = Normal(mean, log_sigma.exp())
    draw = mean + log_sigma.exp() * torch.randn_like(mean)
    table = [
        kl_divergence(Independent(code, 1), prior_of(objective, c))
        for c in range(len(objective.network.divergence.mean))
    ]
    return F.cross_entropy(objective.network.head(draw), LABEL), torch.stack(table, 1)


def test_vib_is_cross_entropy_plus_beta_kl_in_nats():
    objective, image = VIB(network(), beta=0.3, dim=6).eval(), torch.rand(5, 1, 8, 8)
    shake_priors(objective)
    state = torch.get_rng_state()
    entropy, table = parts(objective, image)
    torch.set_rng_state(state)
    torch.testing.assert_close(loss_of(objective, image), entropy + 0.3 * table[:, 0].mean())


def test_viby_takes_the_kl_to_the_true_class():
    objective, image = VIBY(network(), beta=0.3, dim=6).eval(), torch.rand(5, 1, 8, 8)
    shake_priors(objective)
    state = torch.get_rng_state()
    entropy, table = parts(objective, image)
    torch.set_rng_state(state)
    own = torch.stack([row[c] for row, c in zip(table, LABEL, strict=True)])
    torch.testing.assert_close(loss_of(objective, image), entropy + 0.3 * own.mean())


def test_the_papers_settings_are_the_defaults():
    vib, viby = VIB(network()), VIBY(network())
    assert (vib.beta, vib.dim, viby.beta, viby.dim) == (0.005, 64, 0.01, 64)
    assert vib.network.divergence.mean.shape == (1, 64)
    assert viby.network.divergence.mean.shape == (3, 64)


@pytest.mark.parametrize("objective", [VIB, VIBY])
def test_gradients_reach_every_parameter(objective):
    trained = objective(network())
    loss_of(trained, torch.rand(5, 1, 8, 8)).backward()
    for name, parameter in trained.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("objective", [VIB, VIBY])
def test_training_draws_anew_and_scoring_does_not(objective):
    trained, image = objective(network(), samples=3).eval(), torch.rand(5, 1, 8, 8)
    assert loss_of(trained, image) != loss_of(trained, image)
    torch.testing.assert_close(trained.logits(image), trained.logits(image), rtol=0, atol=0)


@pytest.mark.parametrize("objective", [VIB, VIBY])
def test_the_fitted_priors_are_where_the_kl_has_no_gradient(objective):
    trained = objective(network().double(), dim=6).double()
    image, label = torch.rand(30, 1, 8, 8).double(), torch.arange(30) % 3
    batches = [(image[i : i + 7], label[i : i + 7]) for i in range(0, 30, 7)]
    assert trained.finish(batches) is trained.network
    trained.eval()
    divergence = trained.network.divergence(*trained.network.encode(image))
    own = divergence.gather(1, label[:, None]) if objective is VIBY else divergence
    for parameter in trained.network.divergence.parameters():
        (gradient,) = torch.autograd.grad(own.mean(), parameter, retain_graph=True)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)


def test_a_class_without_images_keeps_its_prior():
    trained = VIBY(network(), dim=6)
    shake_priors(trained)
    before = trained.network.divergence.mean[2].clone()
    fit_priors(trained.network, [(torch.rand(8, 1, 8, 8), torch.arange(8) % 2)])
    assert trained.network.divergence.mean[2].equal(before)
    assert all(x.isfinite().all() for x in trained.network.divergence.parameters())


@pytest.mark.parametrize("objective", [VIB, VIBY])
def test_codes_start_as_narrow_as_asked(objective):
    image = torch.rand(5, 1, 8, 8)
    for sigma in (0.05, 0.3):
        _, log_sigma = objective(network(), sigma=sigma).network.encode(image)
        assert log_sigma.exp().log().mean().exp().item() == pytest.approx(sigma, rel=0.5)
    with pytest.raises(ValueError, match="sigma is 0"):
        objective(network(), sigma=0)


def test_a_narrow_start_keeps_the_score_of_one_prior_upright():
    """Digits 6 to 9 unknown: with codes as wide as the prior at the start, they score known."""
    data = load("digits", range(6))

    def found(sigma):
        torch.manual_seed(0)
        trained = train(
            VIB(cnn(classes=6, channels=1, widths=(16, 32), hidden=64), sigma=sigma),
            data,
            epochs=12,
            batch_size=64,
            lr=0.05,
            progress=False,
        )
        with torch.no_grad():
            known, unknown = (
                torch.cat([trained.divergence(*trained.encode(x)) for x, _ in part.batches(256)])
                for part in (data.test, data.unknown)
            )
        return auroc(known.squeeze(1), unknown.squeeze(1))

    assert found(0.69) < 0.3
    assert found(VIB(network()).sigma) > 0.6
