"""What holds on the CPU holds on a GPU; skipped where there is none."""

import copy

import pytest
import test_every_density as densities
import test_every_detector as detectors
import test_every_objective as objectives
import test_pixels as pixels
import torch
from command_line import call

from openset import data, networks
from openset.data import Adapter
from openset.densities import DENSITIES, GaussianMixture
from openset.detectors import build
from openset.errors import Paused
from openset.evaluation.evaluate import evaluate
from openset.evaluation.results import Results
from openset.model.export import export
from openset.model.fit import fit
from openset.model.open_set import OpenSet
from openset.networks.device import device_of
from openset.objectives import OBJECTIVES, CrossEntropy, FlowOutliers
from openset.training.loop import accuracy, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

CUDA = torch.device("cuda", 0)
ALL = (
    "energy",
    "temperature",
    "mahalanobis:epsilon=0.001",
    "gemos:components=1",
    "gemos:components=1,calibration=quantile",
    "fusion:energy+vim",
    "vmdls-b",
)
"""Detectors of logits and of features, that learn from held-out data, that look again."""

TRAIN, HELD_OUT = detectors.images(240, 1), detectors.images(240, 3)
IMAGE = detectors.images(40, 2)[0]
NONE = torch.full((60,), -1)


def near(score, expected, share=2e-3):
    """Equal but for rounding, which differs between devices."""
    size = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(score.cpu(), expected.cpu(), rtol=share, atol=share * size)


@pytest.fixture(scope="module")
def network():
    """A small network that classifies the images of `detectors.images`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = networks.cnn(detectors.CLASSES, 1, widths=(4, 8), hidden=8)
        batches = [detectors.images(240, 0)]
        how = {"epochs": 8, "batch_size": 30, "optimizer": "adam", "lr": 0.01}
        return train(CrossEntropy(plain), batches, device="cpu", **how)


@pytest.mark.parametrize("name", detectors.NAMES)
def test_a_detector_fits_and_scores_as_on_the_cpu(name, network):
    here, there = detectors.make(name), detectors.make(name)
    tap = detectors.tap_for(here, network)
    image, label = detectors.images(240, 1)
    with torch.no_grad():
        batch = tap(image)
    batch.labels = label
    here.fit([batch[:100], batch[100:]]).adjust([batch])
    moved = batch.to(CUDA)
    there.fit([moved[:100], moved[100:]]).adjust([moved])
    with torch.no_grad():
        fresh = here.view(tap)(detectors.images(40, 2)[0])
    score = there(fresh.to(CUDA))
    assert score.device == CUDA
    near(score, here(fresh))
    near(here.to(CUDA)(fresh.to(CUDA)), score)


@pytest.mark.parametrize("name", sorted(DENSITIES))
def test_a_density_fits_and_scores_as_on_the_cpu(name):
    x, labels = densities.known()
    here = densities.build(name).fit_classes([(x, labels)], densities.CLASSES)
    expected = here(x, labels)
    there = densities.build(name).fit_classes([(x.to(CUDA), labels.to(CUDA))], densities.CLASSES)
    near(there(x.to(CUDA), labels.to(CUDA)), expected, 0.05 if name == "flow" else 2e-3)
    near(here.to(CUDA)(x.to(CUDA), labels.to(CUDA)), expected, 1e-4)


@pytest.mark.parametrize("covariance", ["full", "diag", "tied"])
def test_a_mixture_of_streamed_rows_fits_as_on_the_cpu(covariance):
    x, labels = densities.known(per_class=300)
    how = {"components": 2, "covariance": covariance, "memory": 0.0}
    here = GaussianMixture(**how).fit_classes([(x, labels)], densities.CLASSES)
    rows = list(zip(x.to(CUDA).split(250), labels.to(CUDA).split(250), strict=True))
    there = GaussianMixture(**how).fit_classes(rows, densities.CLASSES)
    near(there(x.to(CUDA), labels.to(CUDA)), here(x, labels))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_an_objective_trains(name, precision):
    how = {"batch_size": 24, "lr": 0.05, "channels_last": precision != "32-true"}
    objective = objectives.make(name)
    epochs = 10 if OBJECTIVES[name].classifies else 3
    trained = train(
        objective, [objectives.images()], epochs=epochs, precision=precision, device="cuda", **how
    )
    assert device_of(trained) == CUDA
    assert all(x.isfinite().all() for x in trained.state_dict().values())
    if OBJECTIVES[name].classifies:
        assert accuracy(trained, [objectives.images(seed=1)]) > 0.8


def test_a_network_learns_as_on_the_cpu():
    start = networks.cnn(objectives.CLASSES, 1, widths=(4, 8), hidden=8)
    how = {"epochs": 2, "batch_size": 24, "lr": 0.01, "augment": "crop"}
    image, label = objectives.images()
    here, there = (
        train(CrossEntropy(copy.deepcopy(start)), [(image, label)], device=device, **how)
        for device in ("cpu", "cuda")
    )
    with torch.no_grad():
        near(there(image.to(CUDA)), here(image), 0.02)


@pytest.mark.parametrize("name", ["cross-entropy", "vmdls", "gan-outliers", "vib"])
def test_a_paused_training_goes_on(name, tmp_path):
    objective = objectives.make(name)
    how = {"epochs": 2, "batch_size": 24, "lr": 0.01, "device": "cuda"}
    whole = train(copy.deepcopy(objective), [objectives.images(48)], **how)
    how |= {"folder": tmp_path / "run", "resume": True, "max_minutes": 0}
    resumed = None
    for _ in range(10):
        try:
            resumed = train(copy.deepcopy(objective), [objectives.images(48)], **how)
        except Paused:
            continue
        break
    assert resumed is not None
    image = objectives.images(8, seed=2)[0].to(CUDA)
    with torch.no_grad():
        near(resumed(image), whole(image), 0.02)


@pytest.fixture(scope="module")
def models(network):
    """A model of each kind of detector, of a network on the GPU."""
    moved = copy.deepcopy(network).to(CUDA)
    made = {name: build(name) for name in ALL}
    return fit(moved, made, [TRAIN], [HELD_OUT], accept=0.9, training=True)


@pytest.mark.parametrize("name", ALL)
def test_a_model_answers_as_one_on_the_cpu(name, models, network):
    own = fit(network, {name: build(name)}, [TRAIN], [HELD_OUT], accept=0.9, training=True)[name]
    label, score = models[name](IMAGE.to(CUDA))
    expected_label, expected = own(IMAGE)
    assert label.device == score.device == CUDA
    near(score, expected, 0.02)
    assert (label.cpu() == expected_label).float().mean() > 0.9
    assert models[name].threshold.training == pytest.approx(own.threshold.training, rel=0.05)
    answers = models[name].predict(IMAGE)
    assert [answer.label for answer in answers] == models[name].names(label)


@pytest.mark.parametrize("name", ALL)
def test_a_saved_model_loads_anywhere(name, models, tmp_path):
    model = models[name]
    model.adapter = Adapter((8, 8), 1)
    model.save(tmp_path / "model")
    expected = model(IMAGE.to(CUDA))[1]
    on_cpu = OpenSet.load(tmp_path / "model")
    near(on_cpu(IMAGE)[1], expected, 0.02)
    near(on_cpu.to(CUDA)(IMAGE.to(CUDA))[1], expected, 1e-3)
    around = OpenSet.load(tmp_path / "model", network=copy.deepcopy(model.tap.network))
    near(around(IMAGE.to(CUDA))[1], expected, 1e-3)
    again = on_cpu.calibrate([HELD_OUT], accept=0.9)
    assert again.threshold.values == pytest.approx(model.threshold.values, rel=0.02)


def test_an_export_leaves_the_model_on_the_gpu(models, tmp_path):
    pytest.importorskip("onnxscript")
    model = models["gemos:components=1"]
    assert export(model, tmp_path / "model.onnx", (1, 8, 8)) < 1e-3
    assert device_of(model) == CUDA
    assert model(IMAGE.to(CUDA))[1].device == CUDA


def test_evaluation_measures_as_on_the_cpu(models):
    known, unknown = [detectors.images(60, 4)], {"noise": [(torch.rand(60, 1, 8, 8), NONE)]}
    results = evaluate(models, known=known, unknown=unknown)
    found = {row.detector: row.value for row in results.rows if row.metric == "auroc"}
    for name, model in models.items():
        with torch.no_grad():
            low, high = (
                model(part[0].to(CUDA))[1].cpu() for part in (known[0], unknown["noise"][0])
            )
        expected = (high[:, None] > low).float().mean() + (high[:, None] == low).float().mean() / 2
        assert found[name] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("objective", [CrossEntropy, FlowOutliers])
def test_pixels_are_learned_and_judged(objective, tmp_path):
    pixels.write_scenes(tmp_path / "scenes")
    scenes = data.load(str(tmp_path / "scenes"), "not 3")
    how = {"epochs": 4, "batch_size": 4, "lr": 0.05, "augment": "scale-crop-flip"}
    network = networks.ladder_small(3, 1, width=8)
    how |= {} if objective is CrossEntropy else {"augment": "none", "precision": "bf16-mixed"}
    options = {} if objective is CrossEntropy else {"blocks": 1, "width": 4, "couplings": 1}
    trained = train(objective(network, **options), scenes, device="cuda", **how)
    assert device_of(trained) == CUDA
    made = {name: build(name) for name in ("energy", "mahalanobis", "gemos:components=1")}
    found = fit(trained, made, scenes.train, scenes.valid, accept=0.9)
    results = evaluate(found, known=scenes.test, unknown={"left-out": scenes.unknown})
    assert {row.detector for row in results.rows if row.metric == "ap"} == {*made}


def test_the_commands_run_there(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    call(
        *("train", "digits", "--known-classes", "0-5", "--valid", "0.2", "--out", run),
        *("--network", "cnn:widths=8+16,hidden=32", "--epochs", "6", "--optimizer", "adam"),
        *("--lr", "0.01", "--batch-size", "32", "--precision", "bf16-mixed", "--device", "cuda"),
    )
    call("fit", run, "--detector", "energy", "--detector", "gemos:components=1")
    asked = ("--unknown", "gaussian-noise,limit=100", "--out", out)
    call("evaluate", run, "--detector", "gemos:components=1", *asked, "--device", "cuda")
    found = {row.metric: row.value for row in Results.load(out).rows}
    assert found["auroc"] > 0.8


def test_a_benchmark_with_a_companion_runs_there(tiny, tmp_path):
    text = tiny.read_text().replace('"energy"', '"vmdls"')
    companion = '\n[companions.autoencoder]\nnetwork = "autoencoder:width=4"\n'
    tiny.write_text(text + companion + 'objective = "reconstruction"\n')
    call("benchmark", tiny, "--quick", "--seeds", 1, "--device", "cuda", "--out", tmp_path / "out")
    rows = Results.load(tmp_path / "out").rows
    assert {row.detector for row in rows} >= {"vmdls", "mahalanobis", "gemos:components=1"}
