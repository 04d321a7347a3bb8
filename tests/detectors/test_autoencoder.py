"""The residual of an autoencoder as a score, per pixel and of whole images."""

import pytest
import torch
from torch import nn

from openset.data import Adapter
from openset.detectors import AutoEncoder, build
from openset.evaluation.metrics import auroc
from openset.extractors.tap import Tap
from openset.model.export import export
from openset.model.open_set import OpenSet
from openset.networks import from_spec, spatial_autoencoder
from openset.objectives import Reconstruction
from openset.training.loop import train


class Half(nn.Module):
    def forward(self, image):
        return torch.full_like(image, 0.5)


def pixels():
    return Tap(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)))


def scored(autoencoder, tap, image):
    detector = AutoEncoder(autoencoder)
    return detector(detector.view(tap)(image))


def test_what_is_drawn_exactly_scores_nothing():
    assert not scored(nn.Identity(), pixels(), torch.rand(2, 3, 6, 8)).any()


def test_a_pixel_scores_the_sum_of_its_channels():
    image = torch.rand(2, 3, 6, 8)
    score = scored(Half(), pixels(), image)
    torch.testing.assert_close(score, (image - 0.5).abs().sum(1))


def test_a_whole_image_scores_the_mean_of_its_pixels():
    image = torch.rand(5, 3, 4, 4)
    score = scored(Half(), Tap(nn.Sequential(nn.Flatten(), nn.Linear(48, 3))), image)
    torch.testing.assert_close(score, (image - 0.5).abs().sum(1).mean((1, 2)))


def stripes(n, seed):
    """Scenes of one kind: bright and dark stripes, shifted and shaded at random."""
    generator = torch.Generator().manual_seed(seed)
    phase = 6.28 * torch.rand(n, 1, 1, 1, generator=generator)
    x = torch.linspace(0, 12, 48).view(1, 1, 1, -1)
    shade = 0.3 + 0.2 * torch.rand(n, 3, 1, 1, generator=generator)
    return (0.5 + shade * torch.sin(x + phase)).expand(n, 3, 40, 48).contiguous()


@pytest.fixture(scope="module")
def trained():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = spatial_autoencoder(3, latent=4, width=8, halvings=3)
        image = stripes(64, 0), torch.zeros(64, 40, 48, dtype=torch.long)
        how = {"epochs": 30, "batch_size": 16, "lr": 0.01, "optimizer": "adam"}
        return train(Reconstruction(network, "l1"), [image], **how)


def test_noise_that_is_pasted_in_stands_out(trained):
    image = stripes(8, 1)
    image[:, :, 10:26, 10:26] = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    unknown = torch.zeros(8, 40, 48, dtype=torch.bool)
    unknown[:, 10:26, 10:26] = True
    with torch.no_grad():
        score = scored(trained, pixels(), image)
    assert score[unknown].mean() > 2 * score[~unknown].mean()
    assert auroc(score[~unknown].numpy(), score[unknown].numpy()) > 0.9


def test_it_is_exported_with_its_autoencoder(trained, tmp_path):
    pytest.importorskip("onnxruntime")
    images, label = stripes(6, 3), torch.arange(6 * 40 * 48).view(6, 40, 48) % 2
    model = OpenSet(pixels(), AutoEncoder(trained), adapter=Adapter((40, 48), 3))
    model.calibrate([(images, label)], accept=0.9)
    assert export(model, tmp_path / "model.onnx") < 1e-3


@pytest.mark.parametrize("size", [(40, 48), (45, 83), (7, 9)])
def test_scenes_of_any_size_keep_it(size):
    network = spatial_autoencoder(3, latent=4, width=8).eval()
    image = torch.rand(2, 3, *size)
    assert network(image).shape == image.shape
    again = from_spec(network.spec).eval()
    again.load_state_dict(network.state_dict())
    assert again(image).equal(network(image))


def test_the_absolute_error_is_another_loss():
    image = torch.rand(2, 3, 4, 4)
    [(_, absolute)] = Reconstruction(Half(), "l1").step(image, torch.zeros(2))
    torch.testing.assert_close(absolute, (image - 0.5).abs().mean())
    [(_, squared)] = Reconstruction(Half(), "mse").step(image, torch.zeros(2))
    torch.testing.assert_close(squared, (image - 0.5).square().mean())
    with pytest.raises(ValueError, match="loss must be one of mse, l1; got 'l2'"):
        Reconstruction(Half(), "l2")  # pyright: ignore[reportArgumentType]


def test_it_says_what_it_lacks():
    seen = pixels()(torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"extra\['residual'\]"):
        AutoEncoder(Half())(seen)
    with pytest.raises(ValueError, match="needs autoencoder"):
        build("autoencoder")
    with pytest.raises(ValueError, match="must be a network; got 'a'"):
        AutoEncoder("a")  # pyright: ignore[reportArgumentType]
