"""Parts of an answer: they sum to the score, each is what its own formula says."""

import re

import numpy as np
import pytest
import torch
from command_line import call, fails
from scipy.stats import multivariate_normal
from torch import nn

import openset
from openset import OpenSet, Tap, explain
from openset.activations import Activations
from openset.data import Adapter, load
from openset.detectors import Energy, build
from openset.detectors.by_layer import by_layer, splits
from openset.life.explain import write_explanation

LAYERS = "layers=a+b+logits"


@pytest.fixture
def seen():
    label = torch.arange(400) % 2
    x = torch.randn(400, 5) @ torch.randn(5, 5) + 3 * label[:, None]
    logits = 5 * nn.functional.one_hot(label, 2) + torch.randn(400, 2) / 3
    return Activations(logits, {"a": x[:, :2], "b": x[:, 2:]}, label)


def gaussians(detector, c):
    """Weights, means and covariances of a class, in the space of the features."""
    if detector.name == "vmdls-b":
        inverse = detector.whitening[c].double()
        return (
            [1.0],
            detector.mean[c][None].numpy(),
            [torch.linalg.inv(inverse.T @ inverse).numpy()],
        )
    density = detector.density
    scale, centre = (getattr(density.standardise, n).double() for n in ("scale", "centre"))
    factor = density.factor[c].double().expand(2, *density.factor.shape[2:])
    full = [torch.linalg.inv(f @ f.T) if f.dim() == 2 else (1 / f**2).diag() for f in factor]
    means = density.mean[c].double() * scale + centre
    covariances = [(one * torch.outer(scale, scale)).numpy() for one in full]
    return density.weight[c].double().exp().tolist(), means.numpy(), covariances


@pytest.mark.parametrize(
    "name",
    [
        f"vmdls-b:{LAYERS}",
        *(f"gemos:{LAYERS},components=2,covariance={c}" for c in ("full", "diag", "tied")),
    ],
)
def test_layers_add_what_they_say_beyond_those_before(seen, name):
    detector = build(name).fit([seen])
    assert splits(detector)
    rows = seen[:6]
    parts = by_layer(detector, rows)
    total = torch.stack([*parts.values()]).sum(0)
    torch.testing.assert_close(total.float(), detector.score(rows), rtol=1e-3, atol=1e-3)
    x = rows.stacked(["a", "b", "logits"]).double().numpy()
    best = detector.class_scores(rows).argmax(1).tolist()
    for i, c in enumerate(best):
        before = 0.0
        for layer, edge in zip(parts, (2, 5, 7), strict=True):
            weights, means, covariances = gaussians(detector, c)
            likelihood = sum(
                w * multivariate_normal(m[:edge], s[:edge, :edge]).pdf(x[i, :edge])
                for w, m, s in zip(weights, means, covariances, strict=True)
            )
            assert float(parts[layer][i]) == pytest.approx(-np.log(likelihood) - before, rel=1e-3)
            before = -np.log(likelihood)


@pytest.mark.parametrize("name", ["energy", "gemos:density=pca", "gemos:components=1,reduce=2"])
def test_other_scores_are_no_sums_over_layers(name):
    assert not splits(build(name))


@pytest.fixture(scope="module")
def data():
    return load("digits", known_classes=range(6), valid=0.3)


@pytest.fixture(scope="module")
def network(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = openset.networks.cnn(classes=6, channels=1, widths=(8, 16), hidden=32)
        objective = openset.objectives.CrossEntropy(network)
        return openset.train(objective, data.train, epochs=3, batch_size=32, lr=0.05)


@torch.no_grad()
def test_a_fusion_says_what_each_member_says(network, data, tmp_path):
    model = openset.wrap(network, data.train, data.valid, "fusion:energy+gemos")
    image = data.unknown.images[0]
    told = explain(model, image, known=data.valid)
    rows = model.tap(image[None].float() / 255)
    energy, gemos = model.detector.detectors
    surprise = model.detector.surprise(rows)[0]
    assert told.parts[0].surprise == pytest.approx(float(energy.score(rows)), rel=1e-4)
    assert told.parts[0].p_value == pytest.approx(float((-surprise[0]).exp()), rel=1e-3)
    assert told.parts[1].name == "gemos"
    layers = [part for part in told.parts if part.name.startswith("gemos: ")]
    assert sum(part.surprise for part in layers) == pytest.approx(
        float(gemos.score(rows)), rel=1e-3
    )
    assert all(0 < part.p_value <= 1 for part in layers)
    assert told.answer == model.predict(image)[0]
    write_explanation(told, tmp_path / "why.html", model)
    page = (tmp_path / "why.html").read_text()
    assert told.answer.label in page
    assert page.count("<tr>") == 1 + len(told.parts)


@pytest.mark.parametrize("most", [50_000, 120])
@torch.no_grad()
def test_near_training_images_are_those_that_the_rows_are_of(network, data, most):
    model = openset.wrap(network, data.train, data.valid, f"knn:k=3,max_rows={most}")
    image = data.train.images[5]
    told = explain(model, image, train=data.train)
    rows = model.tap(data.train.images.float() / 255).features["penultimate"]
    x = model.tap(image[None].float() / 255).features["penultimate"]
    for one in told.nearest:
        away = nn.functional.normalize(rows[one.position], dim=0) - nn.functional.normalize(x)[0]
        assert one.distance == pytest.approx(float(away.norm()), abs=2e-3)
    if most > len(data.train):
        assert told.nearest[0].position == 5
    assert [one.distance for one in told.nearest] == sorted(one.distance for one in told.nearest)
    assert explain(model, image).nearest[0].position is None
    with pytest.raises(ValueError, match="give those that it was fitted on"):
        explain(model, image, train=data.valid.subset(range(50)))


@torch.no_grad()
def test_pixels_have_a_map(tmp_path):
    model = OpenSet(Tap(nn.Conv2d(1, 3, 1)), Energy(), adapter=Adapter((8, 12), 1))
    image = torch.rand(1, 8, 12)
    told = explain(model, image)
    label, score = model(image[None])
    assert torch.equal(told.score, score[0])
    assert torch.equal(told.label, label[0])
    write_explanation(told, tmp_path / "why.html", model)
    assert (tmp_path / "why.html").read_text().count("data:image/png") == 2


def test_one_image_is_explained(network, data, tmp_path):
    model = openset.wrap(network, data.train, data.valid, "energy")
    with pytest.raises(ValueError, match="2 images given; give one to explain"):
        explain(model, data.test.images[:2])
    told = explain(model, data.test.images[0])
    assert (told.parts, told.nearest) == ((), ())
    with pytest.raises(ValueError, match=r"end the name in \.html"):
        write_explanation(told, tmp_path / "why.pdf", model)


def test_the_command_shows_layers_and_writes_a_page(run, pictures, tmp_path, capsys):
    picture, page = pictures / "0.png", tmp_path / "why.html"
    call("explain", run, picture, "--detector", "gemos:components=1", "--out", page)
    said = capsys.readouterr()
    assert re.search(r"stage1 .* \d", said.out)
    assert "logits" in said.out
    assert "<h1>" in page.read_text()
    missing = fails(capsys, "explain", run, tmp_path / "x.png", "--detector", "energy")
    assert "no image at" in missing
