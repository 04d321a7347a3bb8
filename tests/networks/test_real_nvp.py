"""Real NVP against autograd's Jacobian, its own inverse, and a brute-force integral."""

import math

import pytest
import torch
from scripts import script

from openset.networks.dcgan import Discriminator, Generator
from openset.networks.real_nvp import RealNVP, grey_levels, real_nvp, squeeze, unsqueeze


def trained_looking(flow: RealNVP, std: float = 0.3) -> RealNVP:
    """Fills the zero weights, so that every coupling does something."""
    for weight in flow.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=std)
    return flow


@pytest.fixture(params=[(1, 2, (8, 12)), (3, 1, (4, 2)), (3, 2, (4, 4)), (1, 3, (8, 8))])
def small(request):
    """A flow in double precision and a few images; the last levels are as small as 1×1."""
    channels, squeezes, size = request.param
    flow = real_nvp(channels, squeezes, couplings=2, blocks=1, width=4)
    flow = trained_looking(flow, std=0.1).double()
    return flow, torch.rand(3, channels, *size, dtype=torch.float64)


def test_decode_inverts_encode_exactly(small):
    flow, image = small
    latents, _ = flow.encode(image)
    torch.testing.assert_close(flow.decode(latents), image, rtol=0, atol=1e-10)
    again, _ = flow.encode(flow.decode([latent + 0.1 for latent in latents]))
    for one, other in zip(again, latents, strict=True):
        torch.testing.assert_close(one, other + 0.1, rtol=0, atol=1e-8)


def test_log_determinant_is_autograds(small):
    flow, image = small

    def flat(x):
        return torch.cat([latent.flatten() for latent in flow.encode(x[None])[0]])

    _, log_det = flow.encode(image)
    for x, ours in zip(image, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(flat, x).flatten(1)
        reference = torch.linalg.slogdet(jacobian).logabsdet
        assert ours.item() == pytest.approx(reference.item(), abs=1e-8)


def test_float32_inverse_of_the_default_flow_on_28_and_32_pixels():
    for channels, size in [(1, 28), (3, 32)]:
        flow = trained_looking(real_nvp(channels), std=0.05)
        image = torch.rand(2, channels, size, size)
        image[0] = 0
        image[0, :, 3:9] = 1
        with torch.no_grad():
            error = flow.decode(flow.encode(image)[0]) - image
        assert error.abs().max() < 1e-4


def test_density_integrates_to_one():
    """Over a 2×2 image by a grid that is even on the logit scale, so that both ends count."""
    flow = trained_looking(real_nvp(1, squeezes=1, couplings=1, blocks=1, width=4)).double()
    alpha, step = flow.alpha, 0.5
    logit = torch.arange(-6, 6.1, step, dtype=torch.float64)
    values = torch.cartesian_prod(logit, logit, logit, logit).view(-1, 1, 2, 2)
    total = 0.0
    with torch.no_grad():
        for part in values.split(100_000):
            p = part.sigmoid()
            image = (p - alpha) / (1 - 2 * alpha)
            cell = (step * p * (1 - p) / (1 - 2 * alpha)).flatten(1).prod(1)
            density = flow.log_prob((256 * image - 0.5) / 255, noise=0.5).exp()
            total += (density * cell).sum().item()
    assert total == pytest.approx(1, abs=0.005)


def test_log_prob_is_the_normal_density_and_the_change_of_variables(small):
    flow, image = small
    latents, log_det = flow.encode((255 * image + 0.5) / 256)
    z = torch.cat([latent.flatten(1) for latent in latents], dim=1)
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum(1) + log_det
    torch.testing.assert_close(flow.log_prob(image, noise=0.5), expected)
    bits = 8 - expected / math.log(2) / image[0].numel()
    torch.testing.assert_close(flow.bits_per_dimension(image, noise=0.5), bits)


def test_noise_is_an_argument_and_stays_within_a_grey_level():
    flow = trained_looking(real_nvp(1, blocks=1, width=4))
    image, noise = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    assert torch.equal(flow.log_prob(image, noise), flow.log_prob(image, noise))
    assert not torch.equal(flow.log_prob(image), flow.log_prob(image))
    white = flow.log_prob(torch.ones(1, 1, 8, 8), noise=1.0)
    assert torch.isfinite(white).all()


def test_untrained_flow_is_the_identity_on_logits():
    flow = real_nvp(1, blocks=1, width=4)
    image = torch.rand(2, 1, 8, 8)
    z = torch.cat([latent.flatten(1) for latent in flow.encode(image)[0]], dim=1)
    expected = (flow.alpha + (1 - 2 * flow.alpha) * image).logit()
    torch.testing.assert_close(z.sort(1).values, expected.flatten(1).sort(1).values)


def test_samples_have_any_size_and_follow_the_generator():
    flow = trained_looking(real_nvp(3, blocks=1, width=4))
    draw = torch.Generator().manual_seed(1)
    first = flow.sample(2, (8, 20), draw)
    assert first.shape == (2, 3, 8, 20)
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, flow.sample(2, (8, 20), torch.Generator().manual_seed(1)))
    assert not torch.equal(first, flow.sample(2, (8, 20), draw))
    one, other = flow.sample(2, (8, 8), temperature=0)
    assert torch.equal(one, other)


def test_size_that_is_no_multiple_of_the_stride_is_refused():
    flow = real_nvp(1, blocks=1, width=4)
    for call in (lambda: flow.sample(1, (30, 28)), lambda: flow.log_prob(torch.rand(1, 1, 28, 30))):
        with pytest.raises(ValueError, match="multiples of 4"):
            call()


def test_bits_per_dimension_falls_in_training():
    flow = real_nvp(1, couplings=1, blocks=1, width=8)
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 8), torch.linspace(0, 1, 8), indexing="ij")
    slant = torch.rand(64, 1, 1, 1)
    image = ((slant * rows + (1 - slant) * columns) * 255).round() / 255
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    bits = []
    for _ in range(60):
        loss = flow.bits_per_dimension(image).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bits.append(loss.item())
    assert bits[-1] < bits[29] - 0.2 < bits[0] - 1


def test_autocast_does_not_touch_the_flow():
    flow = trained_looking(real_nvp(1, blocks=1, width=4))
    image = torch.rand(2, 1, 8, 8)
    plain = flow.log_prob(image, noise=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = flow.log_prob(image, noise=0.5)
        drawn = flow.sample(2, (8, 8), torch.Generator().manual_seed(0))
    assert torch.equal(plain, mixed)
    assert torch.equal(drawn, flow.sample(2, (8, 8), torch.Generator().manual_seed(0)))
    assert drawn.dtype == torch.float32


def peak_and_gradients(checkpoint: bool) -> tuple[int, list[torch.Tensor]]:
    """Bytes that one step of likelihood and samples needs at its height; its gradients."""
    torch.manual_seed(0)
    flow = trained_looking(real_nvp(1, couplings=6, blocks=2, width=16, checkpoint=checkpoint))
    image = torch.rand(16, 1, 16, 16)
    with script("checkpointing").Alive() as memory:
        drawn = flow.sample(16, (16, 16), torch.Generator().manual_seed(0))
        loss = flow.bits_per_dimension(image, noise=0.5).mean() + drawn.square().mean()
        loss.backward()
    return memory.peak, [p.grad for p in flow.parameters() if p.grad is not None]


def test_checkpointing_needs_less_memory_and_changes_no_gradient():
    plain, expected = peak_and_gradients(checkpoint=False)
    less, gradients = peak_and_gradients(checkpoint=True)
    assert less < 0.65 * plain
    assert len(gradients) == len(expected) > 0
    for ours, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


def test_every_parameter_learns_from_likelihood_and_from_samples():
    flow = trained_looking(real_nvp(1, couplings=1, blocks=1, width=4))
    for value in (flow.log_prob(torch.rand(2, 1, 8, 8)).sum(), flow.sample(2, (8, 8)).sum()):
        gradients = torch.autograd.grad(value, list(flow.parameters()))
        assert all(gradient.any() for gradient in gradients)


def test_squeeze_and_its_halves():
    x = torch.arange(2 * 2 * 4 * 6.0).view(2, 2, 4, 6)
    small = squeeze(x)
    assert small.shape == (2, 8, 2, 3)
    assert torch.equal(unsqueeze(small), x)
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    even = x[:, :, (rows + columns) % 2 == 0]
    assert torch.equal(small[:, :4].flatten().sort().values, even.flatten().sort().values)


def test_samples_lie_on_grey_levels_and_gradients_pass_through_them():
    flow = trained_looking(real_nvp(1, couplings=2, blocks=1, width=4))
    drawn = 255 * flow.sample(3, (8, 8))
    assert torch.equal(drawn, drawn.round())
    assert len(drawn.unique()) > 20
    # All 256 levels, the values halfway between them, and what lies outside.
    x = torch.linspace(-0.2, 1.2, 999, dtype=torch.float64).requires_grad_()
    level = grey_levels(x)
    assert (level * 255).tolist() == [min(max(math.floor(256 * v), 0), 255) for v in x.tolist()]
    assert torch.equal(torch.autograd.grad(level.sum(), x)[0], torch.ones_like(x))


def test_centred_flow_begins_with_standard_latents():
    image = torch.rand(64, 3, 8, 8) * torch.tensor([0.2, 0.5, 1.0]).view(3, 1, 1)
    flow = real_nvp(3, blocks=1, width=4)
    before = flow.bits_per_dimension(image, noise=0.5).mean()
    flow.centre(image)
    latents, _ = flow.encode((255 * image + 0.5) / 256)
    z = torch.cat([latent.flatten(1) for latent in latents], dim=1)
    assert z.mean().item() == pytest.approx(0, abs=0.01)
    assert z.std().item() == pytest.approx(1, abs=0.01)
    assert flow.bits_per_dimension(image, noise=0.5).mean() < before


def test_spec_names_the_factory_and_its_settings():
    assert real_nvp(1, width=4).spec == {
        "name": "real-nvp",
        "channels": 1,
        "squeezes": 2,
        "couplings": 6,
        "blocks": 3,
        "width": 4,
        "alpha": 0.001,
        "checkpoint": False,
    }


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (48, 40), (12, 20)])
def test_dcgan_takes_any_size(size):
    generator, discriminator = Generator(1, width=4), Discriminator(1, width=4)
    image = generator.sample(3, size)
    assert image.shape == (3, 1, *size)
    assert 0 <= image.min() < image.max() <= 1
    assert discriminator(image).shape == (3,)


def test_dcgan_has_the_published_shape():
    """Lee et al.: 100-512-256-128-3 up and 3-128-256-512-1 down, all 4×4."""
    kernels = [m for m in Generator(3).modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert [m.in_channels for m in kernels] == [100, 512, 256, 128]
    kernels = [m for m in Discriminator(3).modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in kernels] == [128, 256, 512, 1]
    assert Generator(3)(torch.zeros(2, 100, 1, 1)).shape == (2, 3, 32, 32)
    assert abs(kernels[1].weight.std().item() - 0.02) < 0.001
