"""SynthCP: an image beside one drawn from the classes that the network sees in it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.data import Adapter
from openset.detectors import MSP, SynthCP, build
from openset.evaluation.metrics import auroc
from openset.extractors.tap import Tap
from openset.model.export import export
from openset.model.open_set import OpenSet
from openset.networks import spade

COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]])


class Colours(nn.Module):
    """Draws each class in its own colour."""

    classes = 3

    def forward(self, maps):
        return torch.einsum("nkhw,kc->nchw", maps, COLOURS.to(maps))


class Oracle(nn.Module):
    """Knows the image."""

    def __init__(self, image):
        super().__init__()
        self.image = image

    def forward(self, maps):
        return self.image


class ByColour(nn.Module):
    """Labels each pixel by the nearest colour, from features that are the pixel's own."""

    def __init__(self, sharpness=20.0):
        super().__init__()
        self.features = nn.Conv2d(3, 3, 1)
        self.features.weight.data = torch.eye(3)[:, :, None, None]
        self.features.bias.data.zero_()
        self.head = nn.Conv2d(3, 3, 1)
        self.head.weight.data = sharpness * COLOURS[:, :, None, None]
        self.head.bias.data = -sharpness * COLOURS.square().sum(1) / 2

    def forward(self, image):
        return self.head(self.features(image))


def scored(image, generator, network=None, **settings):
    detector = SynthCP(generator, layer="features", **settings)
    return detector(detector.view(Tap(network or ByColour()))(image))


def test_what_is_drawn_exactly_scores_nothing():
    image = torch.rand(2, 3, 6, 8)
    assert scored(image, Oracle(image), t=1).abs().max() < 1e-6


def test_at_0_it_is_max_softmax():
    image = torch.rand(2, 3, 6, 8)
    assert scored(image, Colours(), t=0).equal(MSP()(Tap(ByColour())(image)))


def test_at_1_it_is_one_minus_the_cosine():
    image = torch.rand(2, 3, 6, 8)
    drawn = COLOURS[ByColour()(image).argmax(1)].movedim(-1, 1)
    cosine = (image * drawn).sum(1) / image.norm(dim=1) / drawn.norm(dim=1)
    torch.testing.assert_close(scored(image, Colours(), t=1), 1 - cosine)


def test_between_both_the_sure_pixels_are_max_softmax():
    image, t = torch.rand(2, 3, 6, 8), 0.9
    p = ByColour()(image).softmax(1).amax(1)
    assert (p > t).any()
    assert (p <= t).any()
    expected = torch.where(p > t, 1 - p, scored(image, Colours(), t=1))
    torch.testing.assert_close(scored(image, Colours(), t=t), expected)


def test_a_coarser_layer_is_compared_at_its_own_places():
    network = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(4, 3, 1))
    image = torch.rand(2, 3, 8, 8)
    detector = SynthCP(Colours(), t=1, layer="0")
    seen = detector.view(Tap(network))(image)
    drawn = COLOURS[seen.logits.argmax(1)].movedim(-1, 1)
    cosine = F.cosine_similarity(network[0](image), network[0](drawn))
    enlarged = F.interpolate(cosine[:, None], (8, 8), mode="bilinear")[:, 0]
    torch.testing.assert_close(seen.extra["resemblance"], enlarged)


def test_an_unknown_patch_that_is_taken_for_a_class_is_found():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (8, 1, 4, 5), generator=generator).float()
    label = F.interpolate(label, scale_factor=8)[:, 0].long()
    image = COLOURS[label].movedim(-1, 1) + 0.1 * torch.rand(8, 3, 32, 40, generator=generator)
    image[:, :, 8:20, 10:24] = torch.tensor([0.6, 0.1, 0.6]).view(3, 1, 1)
    unknown = torch.zeros(8, 32, 40, dtype=torch.bool)
    unknown[:, 8:20, 10:24] = True
    with torch.no_grad():
        score = scored(image, Colours(), t=1)
    assert auroc(score[~unknown].numpy(), score[unknown].numpy()) > 0.9


def test_it_is_saved_and_exported(tmp_path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    image, label = torch.rand(6, 3, 12, 20), torch.arange(1440).view(6, 12, 20) % 3
    detector = SynthCP(spade(classes=3, width=4).eval(), layer="features", t=0.6)
    model = OpenSet(Tap(ByColour()), detector, adapter=Adapter((12, 20), 3))
    model.calibrate([(image, label)], accept=0.9)
    assert export(model, tmp_path / "model.onnx") < 1e-3
    model.save(tmp_path / "model")
    again = OpenSet.load(tmp_path / "model", network=ByColour())
    for before, after in zip(model(image), again(image), strict=True):
        assert after.equal(before)


def test_it_says_what_it_lacks():
    image = torch.rand(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"extra\['resemblance'\]"):
        SynthCP(Colours())(Tap(ByColour())(image))
    with pytest.raises(ValueError, match="maps of 5 classes, the network tells 3"):
        scored(image, spade(classes=5, width=4))
    with pytest.raises(ValueError, match="the generator gave"):
        scored(image, spade(classes=3, channels=1, width=4))
    with pytest.raises(
        ValueError, match="t of detector synthcp is 2; expected a number at least 0"
    ):
        SynthCP(Colours(), t=2)
    with pytest.raises(ValueError, match="generator must be a network; got 'run'"):
        SynthCP("run")
    with pytest.raises(ValueError, match="synthcp needs generator; write synthcp:generator=…"):
        build("synthcp")
