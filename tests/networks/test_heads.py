import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from openset.extractors.tap import Tap
from openset.networks import cnn, from_spec
from openset.networks.heads.binary import binary_heads
from openset.networks.heads.bottleneck import Divergence, bottleneck, log_softplus
from openset.networks.layers import find_head

IMAGE = torch.linspace(0, 1, 320).sin().view(5, 1, 8, 8)


def network():
    return cnn(classes=3, channels=1, widths=(4, 8), hidden=16)


class External(nn.Module):
    """A network of the user's own, with a head that is not called head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(10, 4))

    def forward(self, image):
        return self.classifier(self.body(image))


WRAPPERS = [
    (binary_heads, {}, "binary", 3),
    (bottleneck, {}, "divergence", 1),
    (bottleneck, {"priors": None}, "divergence", 3),
    (bottleneck, {"priors": None, "samples": 4}, "divergence", 3),
]


@pytest.mark.parametrize(("wrap", "settings", "layer", "columns"), WRAPPERS)
def test_a_tap_reads_the_layer_beside_the_logits(wrap, settings, layer, columns):
    wrapped = wrap(network(), dim=6, **settings)
    seen = Tap(wrapped, layers=[*wrapped.stages, layer])(IMAGE)
    assert seen.logits.shape == (5, 3)
    assert seen.features[layer].shape == (5, columns)
    assert seen.features["penultimate"].shape == (5, 6)
    assert [x.shape[1] for x in seen.features.values()][:2] == [4, 8]
    assert find_head(wrapped) == "head"


@pytest.mark.parametrize(("wrap", "settings", "layer", "columns"), WRAPPERS)
def test_rebuilt_from_its_spec_with_the_same_outputs(wrap, settings, layer, columns):
    wrapped = wrap(network(), dim=6, **settings)
    assert wrapped.spec is not None
    again = from_spec(wrapped.spec)
    again.load_state_dict(wrapped.state_dict())
    assert again.spec == wrapped.spec
    torch.testing.assert_close(
        Tap(again, [layer])(IMAGE).features[layer], Tap(wrapped, [layer])(IMAGE).features[layer]
    )
    torch.testing.assert_close(again.eval()(IMAGE), wrapped.eval()(IMAGE), rtol=0, atol=0)


@pytest.mark.parametrize("wrap", [binary_heads, bottleneck])
def test_the_inner_normalisation_is_reached_and_stored_once(wrap):
    wrapped = wrap(network())
    wrapped.normalize.mean.fill_(0.25)
    assert wrapped.network.normalize.mean.item() == 0.25
    assert sum("normalize.mean" in name for name in wrapped.state_dict()) == 1


@pytest.mark.parametrize("wrap", [binary_heads, bottleneck])
def test_any_network_of_the_users_own(wrap):
    wrapped = wrap(External())
    assert wrapped(torch.rand(2, 1, 8, 8)).shape == (2, 4)
    assert wrapped.spec is None
    assert wrapped.normalize is None
    assert isinstance(wrapped.network.classifier[1], nn.Identity)


def test_a_named_head():
    wrapped = binary_heads(External(), head="classifier.1")
    assert (wrapped.features, wrapped.classes) == (10, 4)


@pytest.mark.parametrize("head", [None, "0"])
def test_a_head_that_is_no_linear_layer(head):
    with pytest.raises(ValueError, match=r"no nn\.Linear.*head="):
        binary_heads(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1)), head=head)


def test_both_heads_read_one_linear_output():
    wrapped = binary_heads(network(), dim=6).eval()
    softmax, binary = wrapped.heads(IMAGE)
    x = wrapped.widen(wrapped.network(IMAGE))
    torch.testing.assert_close(softmax, x @ wrapped.head.weight.T + wrapped.head.bias)
    torch.testing.assert_close(binary, x @ wrapped.binary.weight.T + wrapped.binary.bias)
    torch.testing.assert_close(wrapped(IMAGE), softmax)


def test_divergence_equals_torch_distributions():
    divergence = Divergence(priors=3, dim=7).double()
    nn.init.normal_(divergence.mean)
    nn.init.normal_(divergence.log_sigma)
    mean, log_sigma = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    found = divergence(mean, log_sigma)
    for i in range(5):
        for c in range(3):
            code = Independent(Normal(mean[i], log_sigma[i].exp()), 1)
            prior = Independent(Normal(divergence.mean[c], divergence.log_sigma[c].exp()), 1)
            torch.testing.assert_close(found[i, c], kl_divergence(code, prior))


def test_divergence_is_zero_at_its_prior():
    divergence = Divergence(priors=1, dim=4)
    nn.init.normal_(divergence.log_sigma)
    torch.testing.assert_close(
        divergence(divergence.mean, divergence.log_sigma), torch.zeros(1, 1), atol=1e-6, rtol=0
    )


def test_sigma_is_the_softplus_of_the_second_half():
    wrapped = bottleneck(network(), dim=6).eval()
    mean, log_sigma = wrapped.encode(IMAGE)
    code = wrapped.encoder(wrapped.network(IMAGE))
    torch.testing.assert_close(mean, code[:, :6])
    torch.testing.assert_close(log_sigma.exp(), nn.functional.softplus(code[:, 6:]))


def test_log_softplus_has_no_floor_and_a_finite_gradient():
    x = torch.tensor([-1e4, -200.0, -20.0, -15.0, -14.9, 0.0, 50.0], requires_grad=True)
    y = log_softplus(x)
    y.sum().backward()
    exact = [math.log(math.log1p(math.exp(v))) for v in (-20.0, -15.0, -14.9, 0.0, 50.0)]
    torch.testing.assert_close(y, torch.tensor([-1e4, -200.0, *exact]))
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:2], torch.ones(2))
    assert x.grad.isfinite().all()


def test_scoring_is_deterministic_and_the_same_in_any_batch():
    wrapped = bottleneck(network(), samples=5)
    tap = Tap(wrapped, ["divergence"])
    whole = tap(IMAGE)
    alone = [tap(IMAGE[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(torch.cat([x.logits for x in alone]), whole.logits)
    torch.testing.assert_close(tap(IMAGE).logits, whole.logits, rtol=0, atol=0)
    other = bottleneck(network(), samples=5)
    torch.testing.assert_close(other.noise, wrapped.noise, rtol=0, atol=0)


def test_samples_average_probabilities_over_the_draws():
    wrapped = bottleneck(network(), dim=6, samples=4).eval()
    mean, log_sigma = wrapped.encode(IMAGE)
    draws = [wrapped.head(mean + log_sigma.exp() * noise).softmax(1) for noise in wrapped.noise]
    torch.testing.assert_close(wrapped(IMAGE).exp(), torch.stack(draws).mean(0))


def test_without_samples_the_logits_come_from_the_mean():
    wrapped = bottleneck(network(), dim=6).eval()
    torch.testing.assert_close(wrapped(IMAGE), wrapped.head(wrapped.encode(IMAGE)[0]))


def test_half_precision_rounds_the_codes_alone():
    wrapped = bottleneck(network(), dim=6, samples=4).eval()
    exact = wrapped(IMAGE)
    assert (wrapped.bfloat16()(IMAGE.bfloat16()).float() - exact).abs().max() < 0.1
