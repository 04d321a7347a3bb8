"""Class maps that a conditional random field smooths, against mean field written as loops."""

import pytest
import torch
from torch import nn

from openset.data import Adapter
from openset.detectors import CRF, MSP
from openset.extractors.smooth import Smooth
from openset.extractors.tap import Tap
from openset.model.export import export
from openset.model.open_set import OpenSet
from openset.scoring.views import Views

MAPS = Tap(nn.Identity())
"""Takes its images for class maps."""


def scored(logits, **settings):
    detector = CRF(**settings)
    return detector(detector.view(MAPS)(logits))


def by_pairs(logits, sigma, weight, iterations):
    """log Q of one map `[K, H, W]`, over all pairs of pixels."""
    classes, height, width = logits.shape
    place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    kernel = (-torch.cdist(place, place).square() / (2 * sigma**2)).exp()
    kernel.fill_diagonal_(0)
    kernel /= kernel.sum(1, keepdim=True)
    log_p = logits.double().flatten(1).T.log_softmax(1)
    q = log_p.exp()
    for _ in range(iterations):
        q = (log_p + weight * kernel @ q).softmax(1)
    return q.log().T.view(classes, height, width)


@pytest.mark.parametrize(("sigma", "weight", "iterations"), [(3, 2, 1), (4, 5, 10), (2.7, 1, 4)])
def test_it_is_mean_field_over_all_pairs(sigma, weight, iterations):
    logits = torch.randn(2, 4, 8, 8)
    smoothed = Smooth(MAPS, sigma, weight, iterations)(logits).features["smoothed"]
    expected = torch.stack([by_pairs(x, sigma, weight, iterations) for x in logits])
    torch.testing.assert_close(smoothed, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"iterations": 0}])
def test_without_neighbours_it_is_max_softmax(settings):
    logits = 3 * torch.randn(2, 4, 6, 7)
    torch.testing.assert_close(scored(logits, **settings), MSP()(MAPS(logits)), rtol=1e-6, atol=0)
    rows = torch.randn(5, 4)
    torch.testing.assert_close(scored(rows), MSP()(MAPS(rows)))


def test_what_is_the_same_everywhere_stays_so():
    logits = torch.randn(1, 5, 1, 1).expand(1, 5, 12, 9)
    smoothed = Smooth(MAPS, sigma=2)(logits).features["smoothed"]
    torch.testing.assert_close(smoothed, smoothed[:, :, :1, :1].expand_as(smoothed))


def test_one_wrong_pixel_follows_its_surroundings():
    logits = torch.zeros(1, 3, 9, 9)
    logits[:, 0], logits[:, 2, 4, 4] = 2.0, 4.0
    seen = Smooth(MAPS, sigma=2)(logits)
    label, score = CRF().answer(seen)
    assert not label.any()
    assert MSP()(MAPS(logits))[0, 4, 4] > score.view(9, 9)[4, 4]


def test_an_image_alone_scores_as_in_a_batch():
    logits = torch.randn(3, 4, 8, 6)
    alone = torch.cat([scored(x[None], sigma=2.0) for x in logits])
    torch.testing.assert_close(alone, scored(logits, sigma=2.0))


def test_others_on_the_same_pass_see_the_maps_as_they_were():
    logits = torch.rand(2, 4, 6, 6)  # A loader takes what lies in 0…1 alone.
    both = {"msp": MSP(), "crf": CRF(sigma=2)}
    [(_, _, looks)] = Views(MAPS, both).stream([(logits, torch.zeros(2, 6, 6))])
    found = {name: both[name](seen) for names, seen in looks for name in names}
    torch.testing.assert_close(found["msp"], MSP()(MAPS(logits)))
    torch.testing.assert_close(found["crf"], scored(logits, sigma=2))


def test_it_is_exported(tmp_path):
    pytest.importorskip("onnxruntime")
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1))
    image, label = torch.rand(6, 3, 12, 10), torch.arange(720).view(6, 12, 10) % 2
    model = OpenSet(Tap(network), CRF(sigma=1.5), adapter=Adapter((12, 10), 3))
    model.calibrate([(image, label)], accept=0.9)
    assert export(model, tmp_path / "model.onnx") < 1e-3


def test_it_says_what_it_lacks():
    with pytest.raises(ValueError, match=r"features\['smoothed'\]"):
        CRF()(MAPS(torch.rand(1, 3, 4, 4)))
    with pytest.raises(ValueError, match="sigma must be above 0; got 0"):
        CRF(sigma=0)
    with pytest.raises(ValueError, match="at least 0; got -1"):
        CRF(weight=-1)
