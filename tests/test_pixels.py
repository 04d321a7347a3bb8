"""From label maps to an answer for each pixel: data, fit, threshold, evaluation, pictures, maps."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, jaccard_score
from torch import nn
from torch.nn import functional as F

from openset import OpenSet, Tap, data
from openset.activations import UNKNOWN, VOID
from openset.commands.app import main
from openset.detectors import MaxSoftmax, build
from openset.evaluation.evaluate import evaluate
from openset.evaluation.metrics import fpr_at_95_tpr
from openset.evaluation.results import Results
from openset.extractors.pixel_rows import pixel_rows
from openset.model.fit import fit
from openset.model.tune import tune, tune_on_known
from openset.networks import from_spec, ladder_small
from openset.objectives import CrossEntropy
from openset.reporting import report
from openset.runs.run import Run
from openset.sampling import some_of_each
from openset.training.loop import accuracy

SIZE = (32, 48)
SHADES = (20, 90, 160, 230)
"""Grey of each class; the last one, a small square, is left out in training."""


def scene(generator):
    """A grey picture of three bands with a square in it, and the mask of classes."""
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[10:20] = 1
    mask[20:] = 2
    top, left = generator.integers(0, 24), generator.integers(0, 40)
    mask[top : top + 8, left : left + 8] = 3
    mask[:, -1] = 255
    shades = np.array([*SHADES, *[0] * 252])
    image = shades[mask] + generator.normal(0, 5, SIZE)
    return image.clip(0, 255).astype(np.uint8), mask


def write_scenes(folder, counts=(("train", 12), ("validation", 6), ("test", 5)), free=0):
    """Writes scenes as parquet; the first `free` of each split hold no square."""
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    (folder / "data").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, count in counts:
        pairs = [scene(generator) for _ in range(count)]
        for image, mask in pairs[:free]:
            image[mask == 3], mask[mask == 3] = SHADES[0], 0
        columns = {
            "image": [Image.fromarray(image) for image, _ in pairs],
            "mask": [Image.fromarray(mask) for _, mask in pairs],
        }
        features = Features({"image": ImageFeature(), "mask": ImageFeature()})
        table = Dataset.from_dict(columns, features)
        table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))


class Shades(nn.Module):
    """Logits of each pixel by how near its grey is to the shades of the first three classes."""

    stages = ("wide",)

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(1, 3, 1)
        self.head = nn.Conv2d(3, 3, 1)
        shade = torch.tensor(SHADES[:3]) / 255
        with torch.no_grad():
            self.wide.weight.copy_(shade.view(3, 1, 1, 1))
            self.wide.bias.copy_(-shade.square() / 2)
            self.head.weight.copy_(60 * torch.eye(3)[:, :, None, None])
            self.head.bias.zero_()

    def forward(self, image):
        return self.head(self.wide(image))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "scenes"
    write_scenes(folder)
    return data.load(str(folder), "not 3")


def test_the_test_split_keeps_what_training_must_not_see(scenes):
    assert (scenes.train.labels == UNKNOWN).sum() == 0
    assert (scenes.train.labels == VOID).sum() > 12 * 32
    assert scenes.classes == ["0", "1", "2"]
    assert (scenes.unknown.labels == UNKNOWN).flatten(1).any(1).all()
    assert "only 0 of 12" in scenes.notes[-1]


def test_images_with_the_left_out_class_leave_where_enough_remain(tmp_path):
    write_scenes(tmp_path / "free", free=4)
    relabelled = data.load(str(tmp_path / "free"), "not 3")
    assert len(relabelled.train) == 4
    assert len(relabelled.valid) == 4
    assert len(relabelled.test) == 5
    assert set(relabelled.train.labels.unique().tolist()) == {VOID, 0, 1, 2}
    assert "8 of 12" in relabelled.notes[-1]


def test_training_images_that_are_held_out_are_said(tmp_path, scenes):
    """Of street scenes without a validation split; there is none of Cityscapes beside its test."""
    write_scenes(tmp_path / "streets", counts=[("train", 10), ("test", 2)])
    found = data.load(str(tmp_path / "streets"))
    (note,) = (note for note in found.notes if "held out" in note)
    assert note.startswith(f"{len(found.valid)} of the 10 training images of ")
    assert len(found.valid) == 1
    assert not any("held out" in note for note in scenes.notes)


def test_a_sample_of_pixels_is_balanced_bounded_and_true(scenes):
    tap = Tap(Shades(), layers=["stage1"])
    (rows,) = pixel_rows(tap, scenes.train, most=40)
    assert rows.labels.bincount().tolist() == [40, 40, 40]
    again = pixel_rows(tap, scenes.train, most=40)[0]
    assert rows.logits.equal(again.logits)
    whole = tap(scenes.train.images.float() / 255).rows()
    table = torch.cat([whole.logits, whole.features["stage1"]], 1)
    labels = scenes.train.labels.flatten()
    for i in range(0, 120, 10):
        row = torch.cat([rows.logits[i], rows.features["stage1"][i]])
        same = (table - row).abs().amax(1) < 1e-5
        assert (labels[same] == rows.labels[i]).any()
    (free,) = pixel_rows(tap, scenes.train, most=50, balanced=False)
    assert len(free) == 50


def test_some_of_each_group_are_drawn_evenly():
    groups = torch.tensor([0] * 100 + [1] * 3 + [-1] * 50)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.zeros(100)
    for _ in range(400):
        chosen = some_of_each(groups, 5, generator)
        assert groups[chosen].bincount().tolist() == [5, 3]
        drawn += (chosen[:, None] == torch.arange(100)).sum(0)
    assert (drawn.sum(), drawn.max() < 45, drawn.min() > 4) == (2000, True, True)


NAMES = ("msp", "max-logit", "entropy", "energy", "temperature", "odin", "mahalanobis", "gen")
NAMES = (*NAMES, "knn:k=5,max_rows=100", "gemos:components=1", "gemos:components=1,layers=stage1")


def test_every_kind_of_detector_finds_the_strange_pixels(scenes, tmp_path):
    """Mahalanobis, KNN and GeMOS see a shade that no logit can tell from the third class."""
    network = Shades()
    detectors = {name: build(name) for name in NAMES}
    models = fit(network, detectors, scenes.train, scenes.valid, accept=0.9)
    results = evaluate(
        Tap(network, ["stage1", "penultimate"]),
        {name: model.detector for name, model in models.items()},
        scenes.test,
        {"left-out": scenes.unknown},
        thresholds={name: model.threshold for name, model in models.items()},
        classes=scenes.classes,
    )
    found = {(row.detector, row.metric): row.value for row in results.rows}
    assert found["mahalanobis", "ap"] > 0.9
    assert found["gemos:components=1", "auroc"] > 0.9
    assert {name for name, metric in found if metric == "miou"} == set(NAMES)
    image, label = scenes.test.images.float() / 255, scenes.test.labels
    with torch.no_grad():
        activations = Tap(network, ["stage1", "penultimate"])(image)
        score = detectors["mahalanobis"](activations)
    keep = label != VOID
    expected = average_precision_score((label == UNKNOWN)[keep], score[keep])
    assert found["mahalanobis", "ap"] == pytest.approx(expected, abs=1e-6)
    known = label >= 0
    predicted = activations.logits.argmax(1)
    expected = jaccard_score(label[known], predicted[known], average="macro")
    assert found["msp", "miou"] == pytest.approx(expected)
    results.save(tmp_path / "results")
    page = report(Results.load(tmp_path / "results"), tmp_path / "report.html").read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["unit"] == "pixels"
    assert [len(case["maps"]["left-out"]) for case in data["cases"]] == [2] * len(NAMES)


def test_a_model_answers_for_each_pixel(scenes):
    model = OpenSet(
        Tap(Shades(), ["penultimate"]),
        build("mahalanobis").fit(pixel_rows(Tap(Shades(), ["penultimate"]), scenes.train)),
    )
    model.calibrate(scenes.valid, accept=0.95)
    image, truth = scenes.test.images.float() / 255, scenes.test.labels
    label, score = model(image)
    assert label.shape == score.shape == truth.shape
    assert (label[truth == UNKNOWN] == UNKNOWN).float().mean() > 0.9
    assert 0.9 < (label[truth >= 0] != UNKNOWN).float().mean() < 0.99
    assert model.threshold.counts == (int((scenes.valid.labels >= 0).sum()),)


def test_the_same_set_is_looked_at_once(scenes, monkeypatch):
    network, seen = Shades(), []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda image: seen.append(len(image)) or forward(image))
    tuned = build("msp")
    tuned.tuned_on = ("scenes", "others")
    found = evaluate(Tap(network, head="head"), [tuned], scenes.test, {"left-out": scenes.unknown})
    assert {row.tuned_on for row in found.rows} == {"scenes + others"}
    assert sum(seen) == len(scenes.test)


def test_sets_that_cannot_be_measured_are_refused(scenes, tmp_path):
    write_scenes(tmp_path / "known", counts=[("test", 2)], free=2)
    only_known = data.load_images(str(tmp_path / "known"), scenes.adapter)
    with pytest.raises(ValueError, match="both kinds"):
        evaluate(Tap(Shades()), [build("msp")], scenes.test, {"other": only_known})


def test_logits_on_a_coarser_grid_are_enlarged_wherever_they_are_used(scenes, tmp_path):
    """In training, in the log's accuracy, in the fit and in the figures: bilinearly, as logits."""
    coarse = nn.Sequential(OrderedDict(fine=Shades(), less=nn.AvgPool2d(4)))

    class Enlarged(nn.Module):
        def __init__(self):
            super().__init__()
            self.coarse = coarse

        def forward(self, image):
            logits = self.coarse(image)
            return F.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=False)

    image, label = scenes.train.images[:2].float() / 255, scenes.train.labels[:2]
    losses = [dict(CrossEntropy(net).step(image, label))["network"] for net in (coarse, Enlarged())]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    assert accuracy(coarse, scenes.test) == accuracy(Enlarged(), scenes.test) > 0.7
    tables = []
    for network in (coarse, Enlarged()):
        layers = ["fine.wide" if network is coarse else "coarse.fine.wide"]
        assert Tap(network, layers)(image).features[layers[0]].shape == (2, 3, *SIZE)
        models = fit(network, {"msp": build("msp")}, scenes.train, scenes.valid)
        found = evaluate(models, known=scenes.test, unknown={"left-out": scenes.unknown})
        tables.append({row.metric: row.value for row in found.rows})
    assert tables[0] == pytest.approx(tables[1])


def test_tuning_picks_what_the_pixels_tell(scenes):
    """The figures are those of the pixels' scores by kind; few pixels of each image are enough."""
    tap, grid = Tap(Shades()), {"temperature": (1.0, 30.0, 900.0)}
    sets = {"left-out": scenes.unknown}
    tuned = tune(MaxSoftmax(), grid, known=scenes.valid, unknown=sets, tap=tap, seed=1)
    image, truth = scenes.valid.images.float() / 255, scenes.valid.labels
    others, kinds = scenes.unknown.images.float() / 255, scenes.unknown.labels
    for figure in tuned.figures:
        detector = MaxSoftmax(temperature=figure["temperature"])
        known = detector(tap(image))[truth >= 0]
        unknown = detector(tap(others))[kinds == UNKNOWN]
        expected = fpr_at_95_tpr(known, unknown)
        assert figure["fpr_at_95_tpr"] == pytest.approx(expected, abs=0.02)
    alone = tune_on_known(MaxSoftmax(), grid, known=scenes.valid, tap=tap)
    logits = tap(image).logits.movedim(1, -1)[truth >= 0]
    for figure in alone.figures:
        nll = F.cross_entropy(logits / figure["temperature"], truth[truth >= 0]).item()
        assert figure["nll"] == pytest.approx(nll, rel=0.02)
    with pytest.raises(ValueError, match="hold no unknown"):
        tune(MaxSoftmax(), grid, known=scenes.valid, unknown={"known": scenes.train}, tap=tap)


def test_from_training_to_maps_on_the_command_line(tmp_path, capsys):
    """Train with a class left out, fit, evaluate, predict; a file's maps have its own size."""
    write_scenes(tmp_path / "scenes")
    scenes, run = str(tmp_path / "scenes"), str(tmp_path / "run")
    network = "ladder-small:width=8"
    how = ["--epochs", "6", "--batch-size", "4", "--optimizer", "adam", "--lr", "0.01"]
    how += ["--augment", "scale-crop-flip", "--unknown-classes", "3", "--network", network]
    main(["train", scenes, "--out", run, "--objective", "noise-outliers:weight=0.01", *how])
    assert Run.load(run).recipe.known_classes == "not 3"
    assert Run.load(run).accuracy["test"] > 0.5
    main(["evaluate", run, "--detector", "msp", "energy", "--out", str(tmp_path / "found")])
    results = Results.load(tmp_path / "found")
    assert {row.metric for row in results.rows} >= {"miou", "ap", "auroc", "ap_per_image"}
    assert len({row.unknown for row in results.rows}) == 2
    main(["tune", run, "--detector", "msp", "--grid", "temperature=1+10", "--limit", "4"])
    assert any(model.startswith("msp:temperature=") for model in Run.load(run).models)
    picture = tmp_path / "street.png"
    Image.fromarray(scene(np.random.default_rng(1))[0]).resize((96, 64)).save(picture)
    maps = tmp_path / "maps"
    main(["predict", run, str(picture), "--detector", "msp", "--out", str(maps)])
    with Image.open(maps / "street.labels.png") as labels:
        assert (labels.mode, labels.size) == ("P", (96, 64))
        assert int(np.array(labels).max()) <= 3
        assert labels.getpalette()[9:12] == [255, 0, 255]
    names = [entry["name"] for entry in json.loads((maps / "classes.json").read_text())]
    assert names == ["0", "1", "2", "unknown"]
    assert np.load(maps / "street.score.npy").shape == (64, 96)
    with Image.open(maps / "street.overlay.png") as overlay:
        assert overlay.size == (96, 64)
    assert (maps / "index.csv").read_text().startswith("path,name,unknown,highest_score")
    with pytest.raises(SystemExit):
        main(["predict", run, str(picture), "--detector", "msp"])
    assert "--out FOLDER" in capsys.readouterr().err


def test_a_dense_model_is_saved_and_loaded(scenes, tmp_path):
    network = ladder_small(classes=3, channels=1, width=8)
    model = OpenSet(Tap(network), build("energy"), classes=scenes.classes, adapter=scenes.adapter)
    model.calibrate(scenes.valid).save(tmp_path / "model")
    image = scenes.test.images.float() / 255
    for mine, again in zip(model(image), OpenSet.load(tmp_path / "model")(image), strict=True):
        assert mine.equal(again)
    assert from_spec(network.spec).stages == network.stages


def test_pixels_and_whole_images_are_not_mixed(scenes, tmp_path, capsys):
    whole = torch.utils.data.TensorDataset(torch.rand(4, 1, *SIZE), torch.zeros(4).long())
    with pytest.raises(ValueError, match="left-out labels pixels and the known data whole images"):
        evaluate(Tap(Whole()), [build("msp")], whole, {"left-out": scenes.unknown})
    write_scenes(tmp_path / "scenes")
    with pytest.raises(SystemExit):
        main(["train", str(tmp_path / "scenes"), "--epochs", "1", "--out", str(tmp_path / "run")])
    assert "cnn labels whole images and the data label pixels" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["scenes"]


class Whole(nn.Module):
    """Labels whole images."""

    def forward(self, image):
        return image.mean((1, 2, 3))[:, None] * torch.arange(3)
